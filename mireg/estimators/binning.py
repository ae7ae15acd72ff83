"""Sliced binning: MI of random one-dimensional projections, from soft histograms."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import by_width, standardise


class Binning(Estimator):
    """Sliced MI from soft histograms, averaged over random pairs of projections.

    Each layer is projected on ``slices`` random directions; each projection is standardised and
    shared out over ``bins`` bins by a softmax of the squared distance to their centres, which has
    a gradient everywhere. Slice k of a layer is paired with slice k of the next.

    Args:
        bins: bins per projection; None takes ``round(2 n^(1/3))``, at least 4.
        slices: random projections per layer.
        softness: standard deviation of the kernel, in bin widths.
        correct_bias: subtract the Miller-Madow bias of the three entropies.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        seed: of the random directions, which are the same at every call and take nothing from
            the global random-number stream.

    Source: Goldfeld & Greenewald, Sliced mutual information, NeurIPS 2021; Miller, Note on the bias
    of information estimates, 1955.

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> bool(Binning()(x, x) > 0.5)
    True
    """

    name: ClassVar[str] = "binning"

    def __init__(
        self,
        bins: int | None = None,
        slices: int = 64,
        softness: float = 0.5,
        correct_bias: bool = False,
        noise_floor: float = 1e-5,
        seed: int = 0,
    ) -> None:
        if bins is not None and bins < 2:
            raise ValueError(f"bins={bins}: at least 2 bins are needed")
        if slices < 1:
            raise ValueError(f"slices={slices}: at least 1 projection is needed")
        if not softness > 0:
            raise ValueError(f"softness={softness}: the kernel needs a positive width")
        self.bins = bins
        self.slices = slices
        self.softness = softness
        self.correct_bias = correct_bias
        self.noise_floor = noise_floor
        self.seed = seed

    def estimate(self, layers: list[Tensor]) -> Tensor:
        with in_full_precision(layers[0]):
            n = layers[0].shape[0]
            bins = self.bins if self.bins is not None else max(4, round(2 * n ** (1 / 3)))
            weights = by_width(layers, lambda stack: self._assign(stack, bins))  # (L, slices, n, bins)
            marginal = weights.mean(-2)
            joint = weights[:-1].mT @ weights[1:] / n
            information = _entropy(marginal[:-1], 1) + _entropy(marginal[1:], 1) - _entropy(joint, 2)
            if self.correct_bias:
                information = information - (bins - 1) ** 2 / (2 * n)
            return information.mean(-1)

    def ceiling(self, n: int) -> float:
        """Log of the number of bins, and never above log n."""
        return math.log(min(n, self.bins if self.bins is not None else max(4, round(2 * n ** (1 / 3)))))

    def _assign(self, stack: Tensor, bins: int) -> Tensor:
        """Soft bin memberships (g, slices, n, bins) of a stack (g, n, d); each row sums to 1."""
        z = standardise(stack, self.noise_floor) @ self._directions(stack)
        z = z.mT[..., None]  # (g, slices, n, 1)
        z = z * (z.square().mean(-2, keepdim=True) + self.noise_floor / stack.shape[-1]).rsqrt()
        width = 2 * SPAN / bins
        centres = torch.linspace(-SPAN + width / 2, SPAN - width / 2, bins, dtype=z.dtype, device=z.device)
        return torch.softmax(-((z - centres) ** 2) / (2 * (self.softness * width) ** 2), -1)

    def _directions(self, stack: Tensor) -> Tensor:
        """Unit directions (d, slices), the same for the same width."""
        generator = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(stack.shape[-1], self.slices, generator=generator, dtype=torch.float64)
        directions /= torch.linalg.vector_norm(directions, dim=0)
        return directions.to(stack)


SPAN = 2.5
"""Bins cover this many standard deviations to each side; beyond, the outermost bin takes all."""


def _entropy(probability: Tensor, dims: int) -> Tensor:
    """Entropy in nats over the last ``dims`` dimensions."""
    pieces: Tensor = torch.special.entr(probability)
    return pieces.flatten(-dims).sum(-1)
