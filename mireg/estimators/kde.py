"""Kernel density estimate of MI from pairwise distances."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import squared_distances


class KDE(Estimator):
    """MI of layers seen through Gaussian noise, by pairwise-distance entropies.

    The entropy of a layer T + N(0, sigma^2 I) is bounded by the mean over samples of
    ``-log mean_j exp(-|t_i - t_j|^2 / 2 sigma^2)`` and I(X; Y) = H(X) + H(Y) - H(X, Y), in which the
    entropies of the noise cancel. Self terms are kept, so 0 <= I <= log n up to rounding.

    Args:
        bandwidth: sigma, in units of the layer's total standard deviation (the root of the summed
            variance of its units), or several: the estimate is then the mean of the MI at each. A
            wide kernel alone rewards the leading direction and lets a layer collapse to it; narrow
            ones keep the finer structure in sight.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        shared_noise: see :func:`mireg.estimators.gram.gram`. Above 0, the scale of a layer relative to the
            input's counts: what a layer passes on too faintly for the gradient to come back is not rewarded.

    Source: Kolchinsky & Tracey, Estimating mixture entropy with pairwise distances, Entropy 19(7),
    2017.

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(KDE(bandwidth=0.05)(x, -x).item(), 4)  # two clusters, told apart: log 2
    0.6931
    """

    name: ClassVar[str] = "kde"

    def __init__(
        self,
        bandwidth: float | Sequence[float] = (0.5, 0.25, 0.125),
        noise_floor: float = 1e-5,
        shared_noise: float = 0.0,
    ) -> None:
        self.bandwidth = (bandwidth,) if isinstance(bandwidth, int | float) else tuple(bandwidth)
        if not self.bandwidth or not all(math.isfinite(b) and b > 0 for b in self.bandwidth):
            raise ValueError(f"bandwidth={bandwidth!r}: every bandwidth must be a positive number")
        self.noise_floor = noise_floor
        self.shared_noise = shared_noise

    def estimate(self, layers: list[Tensor]) -> Tensor:
        with in_full_precision(layers[0]):
            distances = squared_distances(layers, self.noise_floor, self.shared_noise)
            precision = distances.new_tensor([0.5 / b**2 for b in self.bandwidth])
            exponent = -precision[:, None, None, None] * distances
            entropy = _entropy(exponent)
            joint = _entropy(exponent[:, :-1] + exponent[:, 1:])
            return (entropy[:, :-1] + entropy[:, 1:] - joint).mean(0)


def _entropy(exponent: Tensor) -> Tensor:
    """Entropy, less that of the noise, from log-kernels (..., n, n)."""
    n = exponent.shape[-1]
    return math.log(n) - torch.logsumexp(exponent, -1).mean(-1)
