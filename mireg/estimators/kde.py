"""Kernel density estimate of MI from pairwise distances."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mireg.estimators.base import PairEstimator, in_full_precision, paired
from mireg.estimators.closed_form import closed_form
from mireg.estimators.gram import check_noise, compress, squared_distances


class KDE(PairEstimator):
    """MI of layers with added Gaussian noise, from pairwise-distance entropies.

    The density at each sample comes from a Gaussian kernel on every *other* sample, in X, in Y and in (X, Y):
    ``I = mean_i log [(n - 1) sum_j k_ij l_ij / (sum_j k_ij sum_j l_ij)]``, j over the samples other than i, with
    ``k_ij = exp(-|x_i - x_j|^2 / 2 sigma^2)`` for X and l_ij likewise for Y; the kernels' normalisation cancels. It
    says how much better the samples whose x is near x_i predict y_i than all samples do. A sample takes no part in its
    own prediction, so that shuffled rows give about 0 or less. (With self terms, a layer is rewarded for keeping its
    rows apart, whatever they say.) A sample without neighbours says nothing (:data:`LEAST`). The estimate is at most
    log(n - 1), and below 0 where kernels are narrow for the number of samples.

    ``bandwidth="auto"`` estimates the MI of the samples themselves, for layers of few units and many
    samples. The tails of every unit are compressed (:func:`mireg.estimators.gram.compress`). Distances
    are Mahalanobis distances, in X, in Y and in (X, Y), so that the part explained by a Gaussian of the same
    covariance is exact at any bandwidth and the kernels measure the rest. sigma is
    ``1.8 n^(-1/(dx + dy + 2))``. Self terms have weight one quarter, between a leave-one-out density,
    which is too low where samples are sparse, and a full one, which is too high. The estimate is at most
    log n: n samples cannot show more (McAllester & Stratos).

    Args:
        bandwidth: sigma, in units of the layer's total standard deviation (the root of the summed
            variance of its units), or several: the estimate is then the mean of the MI at each. Narrow kernels
            resolve finer structure, and need more samples. ``"auto"``: see above.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        shared_noise: see :func:`mireg.estimators.gram.gram`. Above 0, a layer's scale relative to the input's
            matters: signals too weak for gradients to flow back are not rewarded.

    Source: Kolchinsky & Tracey, Estimating mixture entropy with pairwise distances, Entropy 19(7), 2017; Hall &
    Morton, On the estimation of entropy, Annals of the Institute of Statistical Mathematics 45(1), 1993, for leaving
    the sample itself out; Moon, Rajagopalan & Lall, Estimation of mutual information using kernel density estimators,
    Physical Review E 52(3), 1995, for kernels with the covariance of the sample; McAllester & Stratos,
    Formal limitations on the measurement of mutual information, AISTATS 2020.

    >>> x = torch.tensor([[0.0], [1.0]]).repeat(1000, 1)
    >>> round(KDE(bandwidth=0.05)(x, -x).item(), 3)  # two clusters, told apart: log 2
    0.694
    """

    name: ClassVar[str] = "kde"
    reward_options: ClassVar[dict[str, Any]] = {"shared_noise": 0.01}

    def __init__(
        self,
        bandwidth: float | Sequence[float] | Literal["auto"] = 0.5,
        noise_floor: float = 1e-5,
        shared_noise: float = 0.0,
    ) -> None:
        self.bandwidth: tuple[float, ...] | Literal["auto"] = "auto"
        if bandwidth != "auto":
            several = (bandwidth,) if isinstance(bandwidth, int | float) else bandwidth
            if isinstance(several, str) or not isinstance(several, Iterable):
                raise ValueError(f"bandwidth={bandwidth!r}: give a positive number, several, or 'auto'")
            self.bandwidth = tuple(several)
            if not self.bandwidth or not all(math.isfinite(b) and b > 0 for b in self.bandwidth):
                raise ValueError(f"bandwidth={bandwidth!r}: every bandwidth must be a positive number")
        check_noise(noise_floor=noise_floor, shared_noise=shared_noise)
        self.noise_floor = noise_floor
        self.shared_noise = shared_noise

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            if self.bandwidth == "auto":
                return self._whitened(layers, partner)
            distances = squared_distances(layers, self.noise_floor, self.shared_noise)
            first, second = distances[:-1], distances[partner]
            factors = [-0.5 / b**2 for b in self.bandwidth]
            if second.requires_grad:
                return closed_form(functools.partial(_leave_one_out, factors=factors), first, second.expand_as(first))
            return closed_form(lambda first: _leave_one_out(first, second, factors)[:2], first)

    def _whitened(self, layers: list[Tensor], partner: slice) -> Tensor:
        """The estimate at the automatic bandwidth."""
        compressed = [compress(layer, self.noise_floor * layer.square().mean(0, keepdim=True)) for layer in layers]
        centred = [z - z.mean(0) for z in compressed]
        spectra = [_mahalanobis(z) for z in centred]
        whole = list(zip(centred, spectra, strict=True))
        nats = torch.stack([_pair(x, y, of_x, of_y) for (x, of_x), (y, of_y) in paired(whole, partner)])
        return nats.clamp_max(math.log(len(layers[0]))).to(layers[0].dtype)


LEAST = 1e-17
"""Added to every kernel, so that a sample too far from all others, as in heavy tails, says nothing: its estimate is 0
and so is its gradient. The product of two is above the smallest float32."""


def _leave_one_out(first: Tensor, second: Tensor, factors: Sequence[float]) -> tuple[Tensor, ...]:
    """MI of two sides, the mean over the factors of the exponents.

    Args:
        first: squared distances (P, n, n).
        second: those of the other side, (P, n, n), or (1, n, n), of which then no gradient is computed.
        factors: -1 / 2 sigma^2 for each bandwidth.

    Returns:
        (P,), and its gradients by both.
    """
    n = first.shape[-1]
    itself = torch.eye(n, dtype=torch.bool, device=first.device)
    first, second = (distances.masked_fill(itself, math.inf) for distances in (first, second))
    nats, by_first, by_second = [], [], []
    for factor in factors:
        near_x, near_y = ((distances * factor).exp() for distances in (first, second))
        # Sums of kernels with LEAST added, and of their products, without adding it to each.
        of_x, of_y = (sums.sum(-1, keepdim=True) for sums in (near_x, near_y))
        joint = torch.linalg.vecdot(near_x, near_y)[..., None] + LEAST * (of_x + of_y) + (n - 1) * LEAST**2
        around_x, around_y = of_x + (n - 1) * LEAST, of_y + (n - 1) * LEAST
        nats.append((joint / (around_x * around_y)).log().mean((-2, -1)))
        scale = factor / (n * len(factors))
        by_joint = scale / joint
        by_first.append(near_x * torch.addcmul(LEAST * by_joint - scale / around_x, near_y, by_joint))
        if second.shape == first.shape:
            by_second.append(near_y * torch.addcmul(LEAST * by_joint - scale / around_y, near_x, by_joint))
    total = torch.stack(nats).mean(0) + math.log(n - 1)
    return total, _sum(by_first), _sum(by_second) if by_second else second


def _sum(parts: list[Tensor]) -> Tensor:
    return functools.reduce(torch.add, parts)


_Spectrum = tuple[Tensor, Tensor]

RIDGE = 1e-4
"""Added to each variance of the compressed units, which is of order 1, before it is inverted."""


def _pair(x: Tensor, y: Tensor, of_x: _Spectrum, of_y: _Spectrum) -> Tensor:
    joint = torch.cat([x, y], -1)
    n, width = joint.shape
    sigma = 1.8 * n ** (-1 / (width + 2))
    of_joint = _mahalanobis(joint)
    gaussian = (of_x[0] + of_y[0] - of_joint[0]) / 2
    rest = [_sparse_entropy(white, sigma) for _, white in (of_x, of_y, of_joint)]
    return gaussian + rest[0] + rest[1] - rest[2]


def _mahalanobis(z: Tensor) -> _Spectrum:
    """Log determinant of the covariance relative to the ridge, and the whitened samples (n, d)."""
    n, width = z.shape
    if width >= n:
        raise ValueError(
            f"bandwidth='auto' is for layers of few units, not {width} on {n} samples: use more samples, another "
            "bandwidth, or the gaussian estimator"
        )
    z = z.double()
    factor = torch.linalg.cholesky_ex(z.mT @ z / n + RIDGE * torch.eye(width, dtype=z.dtype, device=z.device)).L
    white = torch.linalg.solve_triangular(factor, z.mT, upper=False).mT
    return 2 * factor.diagonal().log().sum() - width * math.log(RIDGE), white.float()


def _sparse_entropy(white: Tensor, sigma: float) -> Tensor:
    """Entropy minus that of the noise, with a quarter of each self term; n x CHUNK distances at once."""
    n = len(white)
    scaled = white / (sigma * math.sqrt(2))
    squared_norm = scaled.square().sum(-1)
    logs = []
    for part, own in zip(scaled.split(CHUNK), squared_norm.split(CHUNK), strict=True):
        distances = (own[:, None] + squared_norm - 2 * part @ scaled.mT).clamp_min(0)
        logs.append((torch.exp(-distances).sum(-1) - 0.75).log())
    return math.log(n - 0.75) - torch.cat(logs).mean()


CHUNK = 512
"""Number of kernel rows computed at once, so that they fit in the cache."""
