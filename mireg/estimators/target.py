"""Targets as matrices: classes become codes, values are unchanged; and which rows of a target count."""

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


def countable(target: Tensor) -> Tensor:
    """The rows (n,) that can be predicted from others: a class that another row has too, or a finite value.

    A row alone in its class is no evidence: nothing in the other rows says what its class looks like.

    Args:
        target: (n,) classes, :data:`IGNORED` for rows to skip, or (n, k) values.
    """
    if target.is_floating_point():
        return target.isfinite().any(1)
    if target.device.type == "cpu":
        _, index, counts = target.unique(return_inverse=True, return_counts=True)
        shared = counts[index] > 1
    else:  # without waiting for the device
        shared = (target[:, None] == target).sum(0) > 1
    counted: Tensor = shared & (target != IGNORED)
    return counted


def codes(target: Tensor, like: Tensor) -> tuple[Tensor, Tensor | None]:
    """Convert a target to a matrix (n, k), and mark the rows that count.

    Values are unchanged, except that missing ones (NaN or infinite) become the mean of their column. Only classes of
    rows that count get a column. On an accelerator there is instead one column per row, ``[same class as that row] /
    sqrt(size of the class)``; this code has the same inner products and distances and is computed without waiting for
    the device.

    Args:
        target: (n,) classes, :data:`IGNORED` for rows to skip, or (n,) or (n, k) values.
        like: a tensor with the device and dtype of the code.

    Returns:
        The code, and (n,) with 1 for rows that count (:func:`countable`) and 0 for others, or None if all are known to
        count.
    """
    target = target.detach().to(like.device)
    on_cpu = like.device.type == "cpu"
    if target.is_floating_point():
        values = target.to(like.dtype).flatten(1) if target.ndim > 1 else target.to(like.dtype)[:, None]
        finite = values.isfinite()
        if on_cpu and finite.all():
            return values, None
        filled = values.where(finite, 0.0)
        mean = filled.sum(0) / finite.sum(0).clamp_min(1)
        return values.where(finite, mean), finite.any(1).to(like.dtype)
    counted = countable(target)
    if on_cpu:
        classes, index = target[counted].unique(return_inverse=True)
        code = like.new_zeros(len(target), max(len(classes), 1))
        code[counted.nonzero().flatten(), index] = 1
        return code, None if counted.all() else counted.to(like.dtype)
    return class_products(target, like.dtype), counted.to(like.dtype)


def class_products(target: Tensor, dtype: torch.dtype) -> Tensor:
    """A code (n, n) of classes (n,) with the inner products of the one-hot code, computed from comparisons only."""
    same = (target[:, None] == target).to(dtype)
    return same * same.sum(0).rsqrt()
