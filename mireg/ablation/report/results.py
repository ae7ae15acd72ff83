"""The finished runs of a study."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path
from typing import Any

from mireg.ablation.storage.files import DamagedError, read_result

ARCHIVE = "results.jsonl.gz"
"""File in an archive's folder, with a line per run."""


RESULTS = "runs/*/*/*/result.json"
"""The files of the runs in a study's folder."""


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Load all finished runs of a study's folder, or of an archive (``python -m eval.report DIR --archive TARGET``).

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if a file is damaged.
    """
    if not (folder / "runs").exists() and (folder / ARCHIVE).exists():
        return read_lines(folder / ARCHIVE)
    paths = sorted(folder.glob(RESULTS))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no finished run ({RESULTS})")
    return [result for path in paths if (result := read_result(path)) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the runs of an archive, or raise a DamagedError."""
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DamagedError(f"{path} is damaged") from error
