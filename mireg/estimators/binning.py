"""Sliced binning: MI of random one-dimensional projections, from soft histograms."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn.functional import threshold

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import TINY, by_width, compress


class Binning(Estimator):
    """Sliced MI from soft histograms, averaged over random pairs of projections.

    Each layer is projected on random directions; slice k of a layer is paired with slice k of the
    next. A pair's MI is split into what a Gaussian of its correlation knows, in closed form, and the
    rest, ``I = -1/2 log(1 - rho^2) + [h(y) - h(v)] + I(x; v)`` with v the standardised residual of y
    on x, averaged with the same for x on y. Only the rest goes through histograms, so that bins need
    not resolve a strong dependence. Values are shared out over the bins by a softmax of the squared
    distance to their centres, which has a gradient everywhere; tails are drawn in first
    (:func:`mireg.estimators.gram.compress`).

    Layers of one unit have one slice, and its MI is theirs. Of wider layers it is the average over
    directions, in general less than the MI.

    Args:
        bins: bins per projection; None takes ``round(3 n^(1/3))``, at least 4.
        slices: random projections per layer.
        softness: standard deviation of the kernel, in bin widths.
        correct_bias: subtract the first-order bias of the histograms (Miller-Madow, with the number
            of bins counted softly).
        noise_floor: squared spread, relative to the squared mean, under which differences are rounding
            noise.
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
        correct_bias: bool = True,
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
            slices = 1 if all(layer.shape[1] == 1 for layer in layers) else self.slices
            z = by_width(layers, lambda stack: self._project(stack, slices))  # (L, slices, n)
            together = max(1, CHUNK // (len(z) * z.shape[-1] * self._bins(z.shape[-1])))
            nats = torch.cat([self._nats(part) for part in z.split(together, 1)], 1)
            return nats.clamp_max(math.log(z.shape[-1])).mean(-1)

    def _nats(self, z: Tensor) -> Tensor:
        """MI (L - 1, slices) of each slice (L, slices, n) with the same slice of the next layer."""
        x, y = z[:-1], z[1:]
        rho = (x * y).mean(-1, keepdim=True) / (1 + NOISE)
        unexplained = 1 - rho.square()
        weights, squares = self._assign(z)
        entropy = self._entropy(weights.sum(-1), squares.sum(-1), z.shape[-1])
        nats = -unexplained[..., 0].log() / 2 + (entropy[:-1] + entropy[1:])
        for given, rest, side in ((x, y, slice(None, -1)), (y, x, slice(1, None))):
            others, other_squares = self._assign((rest - rho * given) * unexplained.rsqrt())
            joint, joint_squares = weights[side] @ others.mT, squares[side] @ other_squares.mT
            nats = nats - self._entropy(joint.flatten(-2), joint_squares.flatten(-2), z.shape[-1]) / 2
        return nats

    def _project(self, stack: Tensor, slices: int) -> Tensor:
        """Slices (g, slices, n) of a stack (g, n, d), centred, with variance at most 1."""
        mean = stack.mean(-2, keepdim=True)
        floor = self.noise_floor * mean.square().mean(-1, keepdim=True)  # of the mean, projected
        z = compress((stack - mean) @ self._directions(stack, slices), floor).mT
        z = z - z.mean(-1, keepdim=True)
        return z * (z.square().mean(-1, keepdim=True) + NOISE).rsqrt()

    def _directions(self, stack: Tensor, slices: int) -> Tensor:
        """Unit directions (d, slices), the same for the same width."""
        generator = torch.Generator().manual_seed(self.seed)
        directions = torch.randn(stack.shape[-1], slices, generator=generator, dtype=torch.float64)
        directions /= torch.linalg.vector_norm(directions, dim=0)
        return directions.to(stack)

    def _bins(self, n: int) -> int:
        return self.bins if self.bins is not None else max(4, round(3 * n ** (1 / 3)))

    def _assign(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Soft bin memberships (..., bins, n) of values (..., n), which sum to 1 over the bins, and their squares."""
        bins = self._bins(z.shape[-1])
        width = 2 * SPAN / bins
        centres = torch.linspace(-SPAN + width / 2, SPAN - width / 2, bins, dtype=z.dtype, device=z.device)[:, None]
        slope = centres / (self.softness * width) ** 2
        # -(z - c)^2 / 2h^2, less what all bins have in common
        weights = torch.softmax(torch.addcmul(-slope * centres / 2, z[..., None, :], slope), -2)
        weights = threshold(weights, FAINT, 0.0)
        return weights, weights.square()

    def _entropy(self, counts: Tensor, squares: Tensor, n: int) -> Tensor:
        """Entropy in nats over the last dimension, from sums of memberships and of their squares over n samples.

        An empty bin has no part in it, nor in its gradient. The correction is ``(K - 1) / 2n``, with K the number of
        bins that samples do not share.
        """
        entropy: Tensor = torch.special.entr((counts / n).clamp_min(TINY)).sum(-1)
        if self.correct_bias:
            entropy = entropy + ((squares / (counts + TINY)).sum(-1) - 1) / (2 * n)
        return entropy


SPAN = 3.5
"""Bins cover this many standard deviations to each side; beyond, the outermost bin takes all."""

NOISE = 1e-4
"""Variance, relative to the slices', of the noise that keeps the MI of a slice with itself finite."""


FAINT = 1e-9
"""Memberships below it, which float32 does not see beside the largest, are 0: products of smaller ones leave the
range of normal numbers, where arithmetic is slower by an order of magnitude."""

CHUNK = 2**20
"""Memberships computed at once: they stay in the cache."""
