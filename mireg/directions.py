"""Directions of the push: the leading part of each weight's gradient, all of it raised alike."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor, nn

RANK = 16
"""Directions of a weight's gradient that are pushed; more change nothing that was measured."""

ITERATIONS = 6
"""Newton-Schulz steps: enough to raise singular values of a thousandth of the norm to order 1."""

SMALLEST = 1e-20
"""Keeps the gradient of a parameter that the reward does not reach at 0."""

Direction = tuple[Tensor, ...]
"""Of length 1: a matrix (m, n), or two, (m, rank) and (rank, n), whose product it is and which take less memory."""


def directions(gradients: Sequence[Tensor | None]) -> list[Direction | None]:
    """Gradients brought to length 1, those of weights orthogonalised first.

    Args:
        gradients: by parameter, of any scale; None where a parameter has none. Dimensions after the first of a
            weight are flattened, so that a convolution is a matrix of output channels by all inputs; a vector is
            a matrix of one row.
    """
    found: list[Direction | None] = [None] * len(gradients)
    shapes: defaultdict[torch.Size, list[int]] = defaultdict(list)
    for index, gradient in enumerate(gradients):
        if gradient is not None and gradient.numel():
            shapes[gradient.shape].append(index)
    for shape, indices in shapes.items():
        found_here = (gradient for i in indices if (gradient := gradients[i]) is not None)
        stack = torch.stack([torch.atleast_2d(gradient.float()).flatten(1) for gradient in found_here])
        parts = orthogonalise(stack) if len(shape) >= 2 else (of_length_one(stack),)
        for index, direction in zip(indices, zip(*(part.unbind() for part in parts), strict=True), strict=True):
            found[index] = direction
    return found


def push(direction: Direction, length: Tensor) -> Tensor:
    """The direction (m, n) at another length, 0-dim."""
    *basis, matrix = direction
    scaled = length * matrix
    return basis[0] @ scaled if basis else scaled


def fits(direction: Direction, parameter: nn.Parameter) -> bool:
    """Whether a direction can be one of this parameter."""
    shape = parameter.shape if parameter.ndim >= 2 else torch.Size([1, parameter.numel()])
    return (direction[0].shape[0], direction[-1].shape[1]) == (shape[0], shape[1:].numel())


def orthogonalise(matrices: Tensor) -> Direction:
    """Orthogonal factor of each matrix's leading part, at length 1: its singular values are raised to about the same.

    Args:
        matrices: (g, m, n), of any scale.

    Returns:
        Matrices (g, m, n), or two whose product they are, with at most :data:`RANK` singular values, the largest less
        than twice the least, the others 0.

    Source: Jordan et al., Muon, 2024 (quintic Newton-Schulz iteration); Halko, Martinsson & Tropp, Finding
    structure with randomness, SIAM Review 53(2), 2011 (range from a random sketch).
    """
    m, n = matrices.shape[1:]
    if min(m, n) > RANK:
        basis = torch.linalg.qr(of_length_one(matrices @ _sketch(n, matrices.device))).Q
        return basis, *orthogonalise(basis.mT @ matrices)
    x = of_length_one(matrices.mT if m > n else matrices)
    for _ in range(ITERATIONS):
        a = x @ x.mT
        x = 3.4445 * x + torch.baddbmm(a, a, a, beta=-4.7750, alpha=2.0315) @ x
    x = of_length_one(x)
    return (x.mT if m > n else x,)


def of_length_one(matrices: Tensor) -> Tensor:
    """Matrices (g, m, n) brought to length 1, by way of their largest entry: squares of small ones vanish."""
    largest = torch.maximum(matrices.amax((1, 2), keepdim=True), -matrices.amin((1, 2), keepdim=True))
    matrices = matrices / largest.clamp_min(torch.finfo(matrices.dtype).tiny)
    unit: Tensor = matrices / (torch.linalg.vector_norm(matrices, dim=(1, 2), keepdim=True) + SMALLEST)
    return unit


@cache
def _sketch(n: int, device: torch.device) -> Tensor:
    """Random directions (n, RANK), brought to the device once; the global stream of random numbers is the user's."""
    return torch.randn(n, RANK, generator=torch.Generator().manual_seed(0)).to(device)
