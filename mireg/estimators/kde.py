"""Kernel density estimate of MI from pairwise distances."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mireg.estimators.base import NEXT, PairEstimator, in_full_precision, paired
from mireg.estimators.gram import compress, squared_distances


class KDE(PairEstimator):
    """MI of layers with added Gaussian noise, from pairwise-distance entropies.

    The entropy of a layer T + N(0, sigma^2 I) is bounded by the mean over samples of
    ``-log mean_j exp(-|t_i - t_j|^2 / 2 sigma^2)``. In I(X; Y) = H(X) + H(Y) - H(X, Y) the
    entropies of the noise cancel. Self terms are kept, so 0 <= I <= log n up to rounding.

    ``bandwidth="auto"`` estimates the MI of the samples themselves, for layers of few units and many
    samples. The tails of every unit are compressed (:func:`mireg.estimators.gram.compress`). Distances
    are Mahalanobis distances, in X, in Y and in (X, Y), so that the part explained by a Gaussian of the same
    covariance is exact at any bandwidth and the kernels measure the rest. sigma is
    ``1.8 n^(-1/(dx + dy + 2))``. Self terms have weight one quarter, between a leave-one-out density,
    which is too low where samples are sparse, and a full one, which is too high. The estimate is at most
    log n: n samples cannot show more (McAllester & Stratos).

    Args:
        bandwidth: sigma, in units of the layer's total standard deviation (the root of the summed
            variance of its units), or several: the estimate is then the mean of the MI at each. A
            wide kernel alone rewards the leading direction and lets a layer collapse to it; narrow
            kernels also resolve finer structure. ``"auto"``: see above.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        shared_noise: see :func:`mireg.estimators.gram.gram`. Above 0, a layer's scale relative to the input's
            matters: signals too weak for gradients to flow back are not rewarded.

    Source: Kolchinsky & Tracey, Estimating mixture entropy with pairwise distances, Entropy 19(7),
    2017; Moon, Rajagopalan & Lall, Estimation of mutual information using kernel density estimators,
    Physical Review E 52(3), 1995, for kernels with the covariance of the sample; McAllester & Stratos,
    Formal limitations on the measurement of mutual information, AISTATS 2020.

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(KDE(bandwidth=0.05)(x, -x).item(), 4)  # two clusters, told apart: log 2
    0.6931
    """

    name: ClassVar[str] = "kde"
    reward_options: ClassVar[Mapping[str, Any]] = {"shared_noise": 0.01}

    def __init__(
        self,
        bandwidth: float | Sequence[float] | Literal["auto"] = (0.5, 0.25, 0.125),
        noise_floor: float = 1e-5,
        shared_noise: float = 0.0,
    ) -> None:
        self.bandwidth: tuple[float, ...] | Literal["auto"]
        if bandwidth == "auto":
            self.bandwidth = "auto"
        elif isinstance(bandwidth, str):
            raise ValueError(f"bandwidth={bandwidth!r}: give a positive number, several, or 'auto'")
        else:
            self.bandwidth = (bandwidth,) if isinstance(bandwidth, int | float) else tuple(bandwidth)
            if not self.bandwidth or not all(math.isfinite(b) and b > 0 for b in self.bandwidth):
                raise ValueError(f"bandwidth={bandwidth!r}: every bandwidth must be a positive number")
        self.noise_floor = noise_floor
        self.shared_noise = shared_noise

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            if self.bandwidth == "auto":
                return self._whitened(layers, partner)
            distances = squared_distances(layers, self.noise_floor, self.shared_noise)
            own, joint, _ = _KernelSums.apply(distances, [-0.5 / b**2 for b in self.bandwidth], partner)
            entropy, joint = (math.log(own.shape[-1]) - sums.log().mean(-1) for sums in (own, joint))
            nats: Tensor = (entropy[:, :-1] + entropy[:, partner] - joint).mean(0)
            return nats

    def _whitened(self, layers: list[Tensor], partner: slice) -> Tensor:
        """The estimate at the automatic bandwidth."""
        compressed = [compress(layer, self.noise_floor * layer.square().mean(0, keepdim=True)) for layer in layers]
        centred = [z - z.mean(0) for z in compressed]
        spectra = [_mahalanobis(z) for z in centred]
        whole = list(zip(centred, spectra, strict=True))
        nats = torch.stack([_pair(x, y, of_x, of_y) for (x, of_x), (y, of_y) in paired(whole, partner)])
        return nats.clamp_max(math.log(len(layers[0]))).to(layers[0].dtype)


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


class _KernelSums(torch.autograd.Function):
    """Sums of each sample's kernels over all samples: (B, L, n) for the layers, (B, L - 1, n) for products of partners.

    Takes squared distances (L, n, n) and the factors of B exponents, and also returns the kernels. Kernels are the
    largest tensors of the estimate, so this makes as few passes over them as possible.
    """

    @staticmethod
    def forward(ctx: Any, distances: Tensor, factors: list[float], partner: slice) -> tuple[Tensor, Tensor, Tensor]:
        kernel = torch.stack([distances * factor for factor in factors]).exp_()
        ctx.save_for_backward(kernel)
        ctx.factors, ctx.partner = factors, partner
        ctx.set_materialize_grads(False)
        return kernel.sum(-1), (kernel[:, :-1] * kernel[:, partner]).sum(-1), kernel

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor | None) -> tuple[Tensor, None, None]:
        (kernel,) = ctx.saved_tensors
        own, joint, direct = gradients
        by_kernel = torch.zeros_like(kernel) if own is None else own[..., None].expand_as(kernel).contiguous()
        if joint is not None:
            by_kernel[:, :-1].addcmul_(joint[..., None], kernel[:, ctx.partner])
            if ctx.partner == NEXT:
                by_kernel[:, 1:].addcmul_(joint[..., None], kernel[:, :-1])
            else:
                by_kernel[:, -1] += (joint[..., None] * kernel[:, :-1]).sum(1)
        if direct is not None:  # in a second derivative
            by_kernel += direct
        first, *others = (by_kernel * kernel).unbind()
        by_distance = first * ctx.factors[0]
        for part, factor in zip(others, ctx.factors[1:], strict=True):
            by_distance.add_(part, alpha=factor)
        return by_distance, None, None
