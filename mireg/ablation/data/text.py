"""A text file: predict every character from those before it."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch

from mireg.ablation.data.dataset import Dataset, Windows
from mireg.ablation.errors import UserError
from mireg.ablation.tasks import next_token

SHARES = (0.90, 0.95)
"""Where the validation part and the test part begin."""


def load_text(name: str, path: Path, context: int) -> Dataset:
    """Load the characters of a UTF-8 file: 90% for training, the next 5% for validation, the last 5% for testing.

    Training samples of ``context`` characters begin at every character; those of the other parts do not overlap.

    Raises:
        UserError: if the file cannot be read, or is too short for the context.
    """
    if context < 1:
        raise UserError(f"context={context}: give at least 1")
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    codes = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    vocabulary, found = np.unique(codes, return_inverse=True)
    cuts = [0, *(int(share * len(codes)) for share in SHARES), len(codes)]
    parts = [torch.from_numpy(found[a:b].astype(np.int64)) for a, b in pairwise(cuts)]
    if min(map(len, parts)) <= context:
        raise UserError(
            f"{path} is too short: it has {len(codes)} characters, and a context of {context} needs about "
            f"{20 * (context + 1)}; give a longer text, or --model-options context=N"
        )
    if len(vocabulary) < 2:
        raise UserError(f"{path} repeats one character: there is nothing to learn")
    strided = zip(parts, (1, context, context), strict=True)
    windows = (Windows(part, torch.arange(0, len(part) - context, stride), context) for part, stride in strided)
    return Dataset(name, next_token(len(vocabulary)), *windows)
