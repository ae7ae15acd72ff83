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


def mean_norm(tensors: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of the mean over ranks of all those tensors as one vector, 0-dim float32."""
    vector = torch.cat([tensor.flatten().float() for tensor in tensors])
    dist.all_reduce(vector)
    norm: Tensor = torch.linalg.vector_norm(vector) / dist.get_world_size()
    return norm
