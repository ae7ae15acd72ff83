"""Samples and gradients across the ranks of data-parallel training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist


def world_size() -> int:
    """Ranks of the default process group; 1 where there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def gather(layers: Sequence[Tensor]) -> list[Tensor]:
    """The rows of all ranks, with gradient to this rank's own, in one exchange.

    Every rank then computes the same term on the same rows, so its gradient is taken ``world_size()``
    times: data parallelism averages over the ranks, and the average must be the gradient of one process
    on the joined batch. The backward pass exchanges nothing.

    Args:
        layers: L tensors (n, d_l ...), n and d_l the same on every rank.

    Returns:
        L tensors (world_size * n, D_l), the dimensions after the first flattened; the rows of rank 0 first.
    """
    flat = [layer.flatten(1) for layer in layers]
    joined: Tensor = _Gather.apply(torch.cat(flat, 1))
    return list(joined.split([layer.shape[1] for layer in flat], 1))


def gather_plain(rows: Tensor) -> Tensor:
    """The rows (n, ...) of all ranks, (world_size * n, ...), without a gradient; the rows of rank 0 first."""
    parts = [torch.empty_like(rows) for _ in range(world_size())]
    dist.all_gather(parts, rows.contiguous())
    return torch.cat(parts)


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.rows = len(rows)
        parts = [torch.empty_like(rows) for _ in range(dist.get_world_size())]
        dist.all_gather(parts, rows.contiguous())
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        first = dist.get_rank() * ctx.rows
        return dist.get_world_size() * gradients[0][first : first + ctx.rows]


def mean_over_ranks(tensors: Sequence[Tensor | None], like: Sequence[Tensor]) -> list[Tensor | None]:
    """The mean of each tensor over the ranks, in one exchange; as they are where there is one process.

    Args:
        tensors: on this rank; None counts as 0.
        like: tensors of the same shapes.
    """
    if world_size() == 1:
        return list(tensors)
    whole = [torch.zeros_like(b) if a is None else a for a, b in zip(tensors, like, strict=True)]
    vector = torch.cat([tensor.flatten() for tensor in whole])
    dist.all_reduce(vector)
    parts = (vector / world_size()).split([tensor.numel() for tensor in whole])
    return [part.view_as(tensor) for part, tensor in zip(parts, whole, strict=True)]
