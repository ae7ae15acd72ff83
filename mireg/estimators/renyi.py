"""Matrix-based Rényi mutual information."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mireg.estimators.base import PairEstimator, in_full_precision
from mireg.estimators.gram import check_noise, squared_distances


class Renyi(PairEstimator):
    """Matrix-based Rényi MI, ``S(A) + S(B) - S(A∘B)`` of Gaussian Gram matrices of trace 1.

    ``S_alpha(A) = log(tr A^alpha) / (1 - alpha)``, in nats. It is a functional of the Gram matrices,
    not an estimate of Shannon MI: its value depends on the bandwidth, which should therefore be reported
    with it.

    Args:
        alpha: order, positive and not 1. At 2 the entropy is ``-log |A|_F^2`` and needs no
            eigenvalues; any other order takes three n x n eigenvalue problems per pair.
        bandwidth: bandwidth of the kernel, in units of the layer's total standard deviation; None means
            Scott's ``n^(-1/(4 + d))``.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.

    Source: Sánchez Giraldo, Rao & Príncipe, Measures of entropy from data using infinitely
    divisible kernels, IEEE Transactions on Information Theory 61(1), 2015.

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(Renyi(bandwidth=0.05)(x, -x).item(), 4)  # two clusters, told apart: log 2
    0.6931
    """

    name: ClassVar[str] = "renyi"

    def __init__(self, alpha: float = 2.0, bandwidth: float | None = None, noise_floor: float = 1e-5) -> None:
        if not (math.isfinite(alpha) and alpha > 0 and alpha != 1):
            raise ValueError(f"alpha={alpha}: must be positive and not 1; take 1.01 for nearly Shannon's entropy")
        if bandwidth is not None and not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ValueError(f"bandwidth={bandwidth}: must be a positive number, or None")
        check_noise(noise_floor=noise_floor)
        self.alpha = alpha
        self.bandwidth = bandwidth
        self.noise_floor = noise_floor

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            distances = squared_distances(layers, self.noise_floor)
            n = distances.shape[-1]
            sigma = [self.bandwidth or n ** (-1 / (4 + layer.shape[1])) for layer in layers]
            kernel = torch.exp(distances * distances.new_tensor([-0.5 / s**2 for s in sigma])[:, None, None])
            entropy = self._entropy(kernel)
            return entropy[:-1] + entropy[partner] - self._entropy(kernel[:-1] * kernel[partner])

    def _entropy(self, kernel: Tensor) -> Tensor:
        """Entropies (...,) of Gram matrices (..., n, n) with ones on the diagonal."""
        n = kernel.shape[-1]
        if self.alpha == 2:
            return 2 * math.log(n) - kernel.square().sum((-2, -1)).log()
        broken = kernel.isfinite().all((-2, -1), keepdim=True).logical_not()  # the eigensolver would fail
        spectrum: Tensor = torch.linalg.eigvalsh(kernel.masked_fill(broken, 1.0) / n)
        spectrum = spectrum.masked_fill(broken[..., 0], torch.nan)
        noise = spectrum <= n * torch.finfo(kernel.dtype).eps  # rounding noise, amplified by powers below 1
        powers = spectrum.masked_fill(noise, 1.0).pow(self.alpha).masked_fill(noise, 0.0)
        return powers.sum(-1).log() / (1 - self.alpha)
