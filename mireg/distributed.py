"""Exchange samples and gradients between the ranks of data-parallel training."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from mireg.rows import Rows


def world_size() -> int:
    """Number of ranks in the default process group; 1 if there is none."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def device_of_ranks() -> torch.device:
    """Where the ranks exchange tensors: on this rank's CUDA device under NCCL, else on the CPU."""
    cuda = world_size() > 1 and dist.get_backend() == dist.Backend.NCCL
    return torch.device("cuda", torch.cuda.current_device()) if cuda else torch.device("cpu")


def joined(rows: Rows, agree: Sequence[int]) -> Rows:
    """Gather the rows of all ranks, if they are of the same sizes; every rank must reach this.

    Args:
        rows: this rank's rows.
        agree: numbers in which the ranks must agree, too.
    """
    y, layers = rows.target, rows.layers
    sizes = [*agree, len(layers[0]), *(matrix.shape[1] for matrix in layers)]
    sizes += [] if y is None else [y.ndim, y[0].numel(), y.is_floating_point()]
    if world_size() == 1 or not alike(sizes, layers[0].device):
        return rows
    return Rows(gather(layers), None if y is None else gather_plain(y), rows.kind)


def alike(sizes: Sequence[int], device: torch.device) -> bool:
    """Whether all ranks give the same numbers. Waits for the device."""
    if world_size() == 1:
        return True
    code = hash(tuple(sizes)) >> 1  # of integers, which is the same in every process
    ends = torch.tensor([code, -code], device=device)
    dist.all_reduce(ends, dist.ReduceOp.MAX)
    most, least = ends.tolist()
    return bool(most == -least)


def gather(layers: Sequence[Tensor]) -> list[Tensor]:
    """Gather the rows of all ranks in one exchange, with gradients only to this rank's own rows.

    Every rank then computes the same term on the same rows, so its gradient is multiplied by ``world_size()``:
    data parallelism averages over the ranks, and the average must equal the gradient of one process
    on the joined batch. The backward pass exchanges nothing.

    Args:
        layers: L tensors (n, d_l ...), n and d_l the same on every rank.

    Returns:
        L tensors (world_size * n, D_l), with all dimensions after the first flattened; the rows of rank 0 first.
    """
    flat = [layer.flatten(1) for layer in layers]
    joined: Tensor = _Gather.apply(torch.cat(flat, 1))
    return list(joined.split([layer.shape[1] for layer in flat], 1))


def gather_plain(rows: Tensor) -> Tensor:
    """Gather the rows (n, ...) of all ranks as (world_size * n, ...), without gradients; the rows of rank 0 first."""
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


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Sum a tensor over the ranks; with one process, return it unchanged."""
    if world_size() > 1:
        dist.all_reduce(tensor)
    return tensor
