"""Kernel dependence: HSIC and centred kernel alignment. Dependence, not mutual information."""

from __future__ import annotations

import math
from typing import ClassVar

import torch
from torch import Tensor

from mireg.estimators.base import PairEstimator, in_full_precision
from mireg.estimators.gram import TINY, check_noise, gram, squared_distances


class HSIC(PairEstimator):
    """Hilbert-Schmidt independence criterion of successive layers, with Gaussian kernels.

    Biased: ``tr(K H L H) / (n - 1)^2``, in [0, 1]; under independence it tends to 0 only as n grows. Unbiased:
    the U-statistic with zeroed diagonals, which may be negative.

    Args:
        bandwidth: bandwidth of the kernels, in units of the layer's total standard deviation.
        unbiased: use the U-statistic; it needs at least 4 samples.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.

    Source: Gretton et al., Measuring statistical dependence with Hilbert-Schmidt norms, ALT 2005;
    Song et al., Feature selection via dependence maximization, JMLR 13, 2012, for the unbiased form.

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(HSIC(bandwidth=0.05)(x, x).item(), 4)  # two clusters: n^2 / 4 (n - 1)^2
    0.4444
    """

    name: ClassVar[str] = "hsic"
    measures: ClassVar[str] = "dependence"

    def __init__(self, bandwidth: float = 1.0, unbiased: bool = False, noise_floor: float = 1e-5) -> None:
        if not (math.isfinite(bandwidth) and bandwidth > 0):
            raise ValueError(f"bandwidth={bandwidth}: must be a positive number")
        check_noise(noise_floor=noise_floor)
        self.bandwidth = bandwidth
        self.unbiased = unbiased
        self.noise_floor = noise_floor

    @property
    def fewest_rows(self) -> int:
        return 4 if self.unbiased else 2

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            k = torch.exp(squared_distances(layers, self.noise_floor) * (-0.5 / self.bandwidth**2))
            if self.unbiased:
                return unbiased_hsic(k[:-1], k[partner])
            n = k.shape[-1]
            centred = k - k.mean(-1, keepdim=True)
            centred = centred - centred.mean(-2, keepdim=True)  # H K H; the trace needs only one factor centred
            return (centred[:-1] * k[partner]).sum((-2, -1)) / (n - 1) ** 2


class CKA(PairEstimator):
    """Linear centred kernel alignment of successive layers, in [0, 1].

    ``CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))`` with linear kernels. It measures how similarly the
    two layers arrange the samples, not how much information they share: it is near 1 for
    features of rank one.

    Args:
        noise_floor: see :func:`mireg.estimators.gram.standardise`; it also keeps the alignment of
            a collapsed layer, whose rows differ only by rounding, near 0.
        unbiased: use unbiased HSICs. The index is then about 0 under independence for any n of at least 4,
            whereas the biased form grows with width over n; it may be negative.

    Source: Kornblith et al., Similarity of neural network representations revisited, ICML 2019;
    Nguyen, Raghu & Kornblith, Do wide and deep networks learn the same things?, ICLR 2021, for the
    unbiased form.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    >>> round(CKA()(x, 3 * x + 1).item(), 3)
    1.0
    """

    name: ClassVar[str] = "cka"
    measures: ClassVar[str] = "dependence"

    def __init__(self, noise_floor: float = 1e-3, unbiased: bool = False) -> None:
        check_noise(noise_floor=noise_floor)
        self.noise_floor = noise_floor
        self.unbiased = unbiased

    @property
    def fewest_rows(self) -> int:
        return 4 if self.unbiased else 2

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            k = gram(layers, self.noise_floor)  # samples are centred: this is H K H with H the centring matrix
            if self.unbiased:
                own = unbiased_hsic(k, k).clamp_min(0)  # a U-statistic can be negative
                length = (own + TINY).sqrt()
                return unbiased_hsic(k[:-1], k[partner]) / (length[:-1] * length[partner] + COLLAPSED)
            length = (k.square().mean((1, 2)) + TINY).sqrt()
            return (k[:-1] * k[partner]).mean((1, 2)) / (length[:-1] * length[partner] + COLLAPSED)


COLLAPSED = 1e-6
"""Added to the product of the two layers' norms, which is of order 1/n^2 to 1 unless a layer has collapsed."""


def unbiased_hsic(k: Tensor, other: Tensor) -> Tensor:
    """The U-statistic of HSIC from Gram matrices (..., n, n).

    Raises:
        ValueError: if n < 4.
    """
    n = k.shape[-1]
    if n < 4:
        raise ValueError(f"unbiased HSIC needs at least 4 samples, got {n}: use a larger batch or unbiased=False")
    k, other = k - torch.diag_embed(k.diagonal(0, -2, -1)), other - torch.diag_embed(other.diagonal(0, -2, -1))
    rows, other_rows = k.sum(-1), other.sum(-1)
    trace = (k * other).sum((-2, -1))
    means = rows.sum(-1) * other_rows.sum(-1) / ((n - 1) * (n - 2))
    return (trace + means - 2 * (rows * other_rows).sum(-1) / (n - 2)) / (n * (n - 3))
