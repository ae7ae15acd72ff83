"""Which layers are read at a step: all but the last take turns, to save time."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

GROWS = 25
"""Each layer but the last is rewarded at every k-th step, k times as much. k is 1 for the first 25 steps, where
everything is decided, and grows by 1 every 25 steps (docs/notebook.md)."""


def turn(trained: Sequence[bool], step: int, device: torch.device) -> tuple[list[int], Tensor]:
    """Indices of the layers that are read at a step, the last layer at its end, and how often each of them counts.

    Args:
        trained: whether each of the layers depends on a trained parameter, as the last one does; others count 0.
        step: the step, 0 to read all.
        device: of the result, (layers read,).

    >>> turn([False, True, True, True, True], 25, torch.device("cpu"))
    ([1, 3, 4], tensor([2., 2., 1.]))
    """
    last = len(trained) - 1
    k = max(1, min(1 + step // GROWS, last // 2))
    used = [*range(step % k, last, k), last]
    return used, _constant((*(float(k * trained[i]) for i in used[:-1]), 1.0), device)


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values on a device, copied there once."""
    return torch.tensor(values, device=device)
