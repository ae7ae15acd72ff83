"""Gram matrices of standardised layers: the share of one layer in every kernel estimate."""

from __future__ import annotations

import functools
import math
from collections import defaultdict
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

TINY = 1e-20
"""Squared norm below which a layer counts as exactly constant; only prevents 0/0."""


def check_noise(**options: float) -> None:
    """Raise unless these options, noise floors and variances, are finite and at least 0."""
    for name, value in options.items():
        if not (math.isfinite(value) and value >= 0):
            raise ValueError(f"{name}={value!r}: must be a finite number of at least 0")


def standardise(layer: Tensor, noise_floor: float, noise: float | Tensor = 0.0) -> Tensor:
    """Centre the samples and divide by the layer's total standard deviation.

    The scale is part of the graph, so that inflating a layer gains nothing. It includes a floor
    relative to the layer's mean: if all rows agree up to rounding, their differences are noise and
    stay small instead of being amplified to unit variance.

    Args:
        layer: (..., n, d) samples.
        noise_floor: squared spread, relative to the squared norm of the mean, at which half of
            the normalised variance is considered rounding noise.
        noise: variance of the noise added to every unit, in the layer's own unit.

    Returns:
        (..., n, d) samples with total variance (summed over units) at most 1.
    """
    centred, variance, floor = spread(layer, noise_floor, noise)
    return centred * (variance + floor).rsqrt()


def spread(layer: Tensor, noise_floor: float, noise: float | Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centred samples (..., n, d), total variance and its floor (..., 1, 1), see :func:`standardise`."""
    mean = layer.mean(-2, keepdim=True)
    centred = layer - mean
    variance = centred.square().sum(-1, keepdim=True).mean(-2, keepdim=True)
    floor = noise_floor * mean.square().sum(-1, keepdim=True) + noise * layer.shape[-1]
    return centred, variance, floor + TINY


def noise_variance(layers: Sequence[Tensor], shared_noise: float) -> float | Tensor:
    """Variance of the noise that all layers share, see :func:`gram`."""
    return shared_noise * layers[0].detach().var(0, correction=0).mean() if shared_noise else 0.0


def by_width(layers: list[Tensor], share: Callable[[Tensor], Tensor]) -> Tensor:
    """Apply ``share`` once to each stack of equally wide layers and return the results in order.

    Args:
        layers: L matrices (n, d_l).
        share: maps a (g, n, d) stack to a (g, ...) tensor whose trailing shape does not depend on d.

    Returns:
        (L, ...) tensor, row l the share of layer l.
    """
    return grouped([layer.shape[1] for layer in layers], lambda of: share(torch.stack([layers[i] for i in of])))


def grouped(keys: Sequence[Hashable], share: Callable[[list[int]], Tensor]) -> Tensor:
    """Apply ``share`` once to the positions of each key, and join the results, (g, ...) each, in position order."""
    groups: defaultdict[Hashable, list[int]] = defaultdict(list)
    for position, key in enumerate(keys):
        groups[key].append(position)
    shares = torch.cat([share(positions) for positions in groups.values()])
    order = [position for positions in groups.values() for position in positions]
    if order == sorted(order):
        return shares
    row = {position: row for row, position in enumerate(order)}
    return torch.stack([shares[row[position]] for position in range(len(keys))])


def gram(layers: list[Tensor], noise_floor: float, shared_noise: float = 0.0) -> Tensor:
    """Linear Gram matrices (L, n, n) of the standardised layers.

    Args:
        layers: L matrices (n, d_l).
        noise_floor: see :func:`standardise`.
        shared_noise: variance of the noise added to every unit of every layer, relative to the mean variance of
            the first layer's units: a layer whose scale falls far below the input's then loses its signal.
    """
    noise = noise_variance(layers, shared_noise)

    def of_stack(stack: Tensor) -> Tensor:
        z = standardise(stack, noise_floor, noise)
        return z @ z.mT

    return by_width(layers, of_stack)


def squared_distances(layers: list[Tensor], noise_floor: float, shared_noise: float = 0.0) -> Tensor:
    """Pairwise squared distances (L, n, n) of the standardised layers, at least 0; see :func:`gram`."""
    k = gram(layers, noise_floor, shared_noise)
    squared_norm = k.diagonal(dim1=-2, dim2=-1)
    return (squared_norm[:, :, None] + squared_norm[:, None, :] - 2 * k).clamp_min(0)


def random_directions(stack: Tensor, count: int, seed: int) -> Tensor:
    """Random unit directions (d, count) for a stack (..., n, d), the same at every call; no global random state."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(stack.shape[-1], count, generator=generator, dtype=torch.float64, device="cpu")
    unit: Tensor = drawn / torch.linalg.vector_norm(drawn, dim=0)
    return unit.to(stack)


def random_order(n: int, generator: torch.Generator) -> Tensor:
    """A permutation (n,) on the generator's device, which need not be the default one."""
    return torch.randperm(n, generator=generator, device=generator.device)


@functools.lru_cache(maxsize=64)
def cycle(n: int, device: torch.device, seed: int) -> Tensor:
    """A permutation (n,) without fixed points, the same at every call; no global random state."""
    order = random_order(n, torch.Generator().manual_seed(seed))
    return torch.empty_like(order).scatter_(0, order, order.roll(-1)).to(device)


def compress(layer: Tensor, squared_floor: Tensor) -> Tensor:
    """Compress heavy tails, unit by unit: asinh of the distance to the median over the interquartile range.

    A monotone map of single units does not change mutual information. It gives second moments to
    samples that have none (Cauchy), and leaves a normal sample nearly normal.

    Args:
        layer: (..., n, d) samples.
        squared_floor: (..., 1, d) or (..., 1, 1); squared scale below which differences are rounding
            noise and stay small.

    Returns:
        (..., n, d) samples with spread of order 1, or less if a unit has collapsed.
    """
    n = layer.shape[-2]
    rows = _rows_of_ranks(layer.detach(), [round(q * (n - 1)) for q in (0.25, 0.5, 0.75)])
    low, median, high = layer.gather(-2, rows).split(1, -2)
    compressed: Tensor = _Asinh.apply((layer - median) * ((high - low).square() + squared_floor + TINY).rsqrt())
    return compressed


class _Asinh(torch.autograd.Function):
    """asinh from vectorised functions: torch's own takes ten times as long on a CPU."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        size = x.abs()
        return x.square().add_(1).sqrt_().add_(1).reciprocal_().mul_(size).mul_(size).add_(size).log1p_().copysign_(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        slope: Tensor = (x.square() + 1).rsqrt()
        return gradients[0] * slope


def _rows_of_ranks(layer: Tensor, ranks: list[int]) -> Tensor:
    """For every unit of a layer (..., n, d), the rows (..., ranks, d) of its values with these ranks."""
    if layer.device.type != "cpu" or layer.dtype not in (torch.float32, torch.float64):
        return layer.argsort(-2)[..., ranks, :]
    # NumPy sorts ten times faster than torch.
    order = np.argsort(layer.mT.contiguous().numpy(), -1)[..., ranks]
    return torch.from_numpy(order).mT
