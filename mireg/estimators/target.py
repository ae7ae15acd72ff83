"""Targets as matrices: classes become codes, values are unchanged."""

from __future__ import annotations

import torch
from torch import Tensor

IGNORED = -100
"""Class of a row to skip, as in :func:`torch.nn.functional.cross_entropy`."""


def check_target(target: Tensor, rows: int) -> None:
    """Raise unless a target has one class (n,) or values (n,) or (n, k) for each of n rows."""
    if not isinstance(target, Tensor):
        raise TypeError(f"the target is a {type(target).__name__}: make a tensor of it, as with torch.as_tensor")
    if target.is_complex():
        raise TypeError(f"the target has dtype {target.dtype}: give classes (integers) or real values")
    if target.ndim == 0 or target.shape[0] != rows or (target.ndim > 1 and not target.is_floating_point()):
        raise ValueError(
            f"the target has shape {tuple(target.shape)} and the layers have {rows} rows: give one class (n,) or "
            "values (n,) or (n, k) for each row"
        )


def codes(target: Tensor, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Convert a target to a matrix (n, k), and mark the rows to use.

    Values are unchanged. Only classes that occur get a column. On an accelerator there is instead one column per row,
    ``[same class as that row] / sqrt(size of the class)``; this code has the same inner products and distances and is
    computed without waiting for the device.

    Args:
        target: (n,) classes, :data:`IGNORED` for rows to skip, or (n,) or (n, k) values.
        like: a tensor with the device and dtype of the code.

    Returns:
        The code, and (n,) with 1 for rows to use and 0 for others, or None if all rows are known to be used.
    """
    target = target.detach().to(like.device)
    if target.is_floating_point():
        return target.to(like.dtype).flatten(1) if target.ndim > 1 else target.to(like.dtype)[:, None], None
    kept = (target != IGNORED).to(like.dtype)
    if like.device.type == "cpu":
        classes, index = target.unique(return_inverse=True)
        code = torch.nn.functional.one_hot(index, len(classes)).to(like.dtype)
        return code, None if (classes != IGNORED).all() else kept
    return class_products(target, like.dtype), kept


def class_products(target: Tensor, dtype: torch.dtype) -> Tensor:
    """A code (n, n) of classes (n,) with the inner products of the one-hot code, computed from comparisons only."""
    same = (target[:, None] == target).to(dtype)
    return same * same.sum(0).rsqrt()
