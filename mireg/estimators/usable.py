"""Usable information: what a linear predictor extracts from a layer about a target, evaluated on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import TINY, by_width, grouped
from mireg.estimators.target import codes

RIDGES = tuple(10.0**power for power in (-3, -2, -1, -0.5, 0, 0.5, 1, 1.5, 2, 6))
"""Of which ``ridge="auto"`` takes the best for each layer; with the last one nothing but the mean is predicted."""

SMALL_RIDGE = 0.05
"""Below it, inverses are computed in double precision."""

BLOCK = 32
"""Matrices up to this size are inverted whole."""


class Usable(Estimator):
    """Usable information about a target in a layer, by ridge regression and leave-one-out prediction.

    Ridge regression on all other samples predicts the target of each sample from the layer, and its error is compared
    with that of predicting their mean: ``I = k/2 log(baseline error / prediction error)``, errors summed over the k
    dimensions of the target. This is predictive V-information, where V is the family of Gaussian predictors whose mean
    is affine in the layer and whose noise has the same variance in every dimension. For a Gaussian target of one
    dimension it converges to Shannon's MI. For several dependent dimensions it can overestimate, because the predictors
    ignore their dependence. Unlike Shannon's MI, it differs between the layers of a deterministic network. No sample
    takes part in its own prediction, so a layer wider than the batch, or a layer of noise, has an estimate of about 0
    with ``ridge="auto"``, and below 0 with a fixed ridge that is too small.

    For classes the target is the one-hot code, and the factor is 1/2 instead of k/2: nats per dimension of the code,
    since its dimensions are not independent channels. Between two layers it says how well the earlier one can be
    predicted from the later one.

    With K the Gram matrix of the standardised layer, r the ridge and ``A = (K + r I)^-1``, the leave-one-out residuals
    are ``(A Y)_i / (A_ii - 1 / n r)``: one inverse per layer, n x n or d x d, whichever is
    smaller; all layers of a width at once, the gradient in closed form.

    Args:
        ridge: added to the diagonal of the Gram matrix, whose trace is n for a layer of any width; ``"auto"``
            takes for each layer the one of a fixed grid with the smallest leave-one-out error.
        per_dimension: leave out the factor k, so that targets of any width are rewarded alike.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        shared_noise: variance of noise in every unit of every layer, relative to the mean variance of the
            first layer's units or to 1, whichever is less. Above 0, a layer that passes the signal on too faintly
            reads less.

    Source: Xu et al., A theory of usable information under computational constraints, ICLR 2020; Allen, The
    relationship between variable selection and data augmentation and a method for prediction,
    Technometrics 16(1), 1974, for leave-one-out residuals in closed form (PRESS).

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> y = torch.linspace(-1, 1, 64).sign().long()
    >>> Usable().about([x, torch.zeros(64, 3)], y).round(decimals=2)
    tensor([0.6900, -0.0000])
    """

    name: ClassVar[str] = "usable"
    measures: ClassVar[str] = "usable information"
    rewarded: ClassVar[dict[str, Any]] = {"ridge": 0.1, "per_dimension": True, "shared_noise": 0.1}

    def __init__(
        self,
        ridge: float | Literal["auto"] = "auto",
        per_dimension: bool = False,
        noise_floor: float = 1e-7,
        shared_noise: float = 0.0,
    ) -> None:
        if ridge != "auto" and not (isinstance(ridge, int | float) and math.isfinite(ridge) and ridge > 0):
            raise ValueError(f"ridge={ridge!r}: give a positive number or 'auto'")
        self.ridge = ridge
        self.per_dimension = per_dimension
        self.noise_floor = noise_floor
        if not (math.isfinite(shared_noise) and shared_noise >= 0):
            raise ValueError(f"shared_noise={shared_noise!r}: must be a finite number of at least 0")
        self.shared_noise = shared_noise

    def estimate(self, layers: list[Tensor]) -> Tensor:
        with in_full_precision(layers[0]):
            n, noise = len(layers[0]), self._noise(layers)

            def share(pairs: list[int]) -> Tensor:
                read = torch.stack([layers[i] for i in pairs])
                mean = read.mean(-2, keepdim=True)
                # The earlier layer is seen through the noise floors, too: rounding noise is nothing to read.
                floor = self.noise_floor * mean.square().sum((-2, -1)) + noise * read.shape[-1]
                nats = self._read(
                    torch.stack([layers[i + 1] for i in pairs]), read - mean, n * floor.detach(), noise, None
                )
                return nats * self._factor(read.shape[-1])

            return grouped([(a.shape[1], b.shape[1]) for a, b in pairwise(layers)], share)

    def estimate_about(self, layers: list[Tensor], target: Tensor) -> Tensor:
        with in_full_precision(layers[0]):
            code, kept = codes(target, layers[0])
            centred, _, _ = _centred(code, kept)
            noise, floor = self._noise(layers, kept), torch.zeros_like(code[0, :1])
            factor = self._factor(code.shape[1]) if target.is_floating_point() else 0.5
            return factor * by_width(layers, lambda stack: self._read(stack, centred, floor, noise, kept))

    def _factor(self, dimensions: int) -> float:
        return 0.5 if self.per_dimension else dimensions / 2

    def _noise(self, layers: Sequence[Tensor], kept: Tensor | None = None) -> Tensor:
        """Variance (0-dim) of the noise in each unit of a layer."""
        centred, _, count = _centred(layers[0].detach(), kept)
        variance = centred.square().sum(0) / count
        return self.shared_noise * variance.mean().clamp_max(1)

    def _read(
        self,
        layers: Tensor,
        target: Tensor,
        floor: Tensor,
        noise: Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        """Log (g,) of baseline over prediction error: layers (g, n, d), target ([g,] n, k) with mean 0."""
        ridge = _best_ridge(layers, target, self.noise_floor, noise, kept) if self.ridge == "auto" else self.ridge
        log: Tensor = _Reading.apply(layers, target, floor + TINY, self.noise_floor, noise, ridge, kept)
        return log

    def ceiling(self, n: int) -> float:
        """Bound of what can be read of a layer in itself, over all its possible ranks."""
        if self.per_dimension:
            return math.log1p(n / self._least_ridge)
        return max(rank * math.log1p(n / (rank * self._least_ridge)) for rank in range(1, n))

    @property
    def _least_ridge(self) -> float:
        return RIDGES[0] if self.ridge == "auto" else float(self.ridge)


class _Reading(torch.autograd.Function):
    """Log of the leave-one-out error of the mean over that of ridge regression, with its gradient in closed form.

    Takes layers (g, n, d), what is read of them ([g,] n, k) centred over the rows that are kept, a noise floor of the
    target's squared length ([g]), and the options of :class:`Usable`; gives (g,).

    With B = A Y, residuals E = B / a, a the diagonal of A less 1 / n r, W = E / a, V = A W and c = |E|^2 / a, the
    derivative of the error J is ``dJ = tr(dK M) + 2 tr(V' dY)``, ``M = 2 A diag(c) A - B V' - V B'``.
    """

    @staticmethod
    def forward(
        ctx: Any,
        layers: Tensor,
        target: Tensor,
        floor: Tensor,
        noise_floor: float,
        noise: Tensor,
        ridge: float | Tensor,
        kept: Tensor | None,
    ) -> Tensor:
        centred, mean, scale, count = _scaled(layers, noise_floor, noise, kept)
        r = ridge[:, None, None] if isinstance(ridge, Tensor) else ridge
        n, d = centred.shape[-2:]
        if d < n:  # A = (I - P Z') / r with P = Z (Z'Z + r I)^-1; scales are kept out of the large matrices
            features = centred.mT @ centred
            # In double precision: I - P Z' takes nearly equal numbers from each other.
            projected = centred @ _inverse(features.double(), r * scale).to(centred.dtype)
            diagonal = (1 - (projected * centred).sum(-1)[..., None, :]) / r

            def apply(x: Tensor) -> Tensor:
                return (x - (x @ centred) @ projected.mT) / r
        else:
            # Of the mean centred rows know nothing: there A is 1 / r, and drowns the rest. 1 / (1 + r) does as well.
            ones = scale / count if kept is None else scale / count * torch.outer(kept, kept)
            kernel = torch.baddbmm(ones, centred, centred.mT)
            # With a small ridge, rounding makes the inverse of a collapsed layer's kernel meaningless.
            small = isinstance(ridge, Tensor) or ridge < SMALL_RIDGE
            resolvent = _inverse(kernel.double() if small else kernel, r * scale).to(kernel.dtype).mul_(scale)
            diagonal = resolvent.diagonal(dim1=-2, dim2=-1)[..., None, :]

            def apply(x: Tensor) -> Tensor:
                return x @ resolvent

        # Targets and residuals are transposed, (k, n): products with few rows are faster than with few columns. Large
        # matrices are changed in place, since new memory costs more than the arithmetic.
        b = apply(target.mT)
        a = diagonal - 1 / (count * (r if d < n else r + 1))
        residual = b / a
        error = residual.square().sum((-2, -1)) + floor
        baseline = target.square().sum((-2, -1)) / (1 - 1 / count) ** 2 + floor
        if ctx.needs_input_grad[0] or ctx.needs_input_grad[1]:
            w = residual / a
            v = apply(w)
            if ctx.needs_input_grad[0]:
                c = (residual * w).sum(-2)[..., None]
                left, right = torch.cat([b, v], -2).mT, torch.cat([v, b], -2)
                if d < n:
                    weighted = c * projected
                    by_kernel = weighted.sub_(projected @ (centred.mT @ weighted)).mul_(2 * scale / r)
                    by_kernel = by_kernel.baddbmm_(left, right @ centred, alpha=-1)
                else:
                    by_kernel = torch.baddbmm((resolvent * c.mT) @ resolvent, left, right, beta=2, alpha=-1) @ centred
                by_scale = (by_kernel * centred).sum((-2, -1), keepdim=True) / scale.square()  # minus dJ / d scale
                gradient = by_kernel.mul_(2 / scale).addcmul_(centred, -2 * by_scale / count)
                if kept is not None:
                    gradient.mul_(kept[:, None])
                own = gradient.sum(-2, keepdim=True) / count
                gradient.sub_(own + (2 * noise_floor * by_scale / count) * mean).mul_((-1 / error)[:, None, None])
                ctx.by_layer = gradient if kept is None else gradient.mul_(kept[:, None])
            if ctx.needs_input_grad[1]:
                ctx.by_target = target * (2 / baseline / (1 - 1 / count) ** 2)[:, None, None]
                ctx.by_target = ctx.by_target - v.mT * (2 / error)[:, None, None]
        return (baseline / error).log()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        factor = gradients[0][:, None, None]
        by_layer = factor * ctx.by_layer if ctx.needs_input_grad[0] else None
        by_target = factor * ctx.by_target if ctx.needs_input_grad[1] else None
        return by_layer, by_target, *[None] * 5


def _count(rows: Tensor, kept: Tensor | None) -> float | Tensor:
    """Number of rows (..., n, d) that count."""
    return rows.shape[-2] if kept is None else kept.sum().clamp_min(2)  # where all are skipped, 0 instead of 0 / 0


def _centred(rows: Tensor, kept: Tensor | None) -> tuple[Tensor, Tensor, float | Tensor]:
    """Rows (..., n, d) less their mean, 0 where not kept; the mean (..., 1, d), and the number of rows that count."""
    count = _count(rows, kept)
    mean = (rows if kept is None else rows * kept[:, None]).sum(-2, keepdim=True) / count
    centred = rows - mean
    return centred if kept is None else centred * kept[:, None], mean, count


def _scaled(
    layers: Tensor, noise_floor: float, noise: Tensor, kept: Tensor | None
) -> tuple[Tensor, Tensor, Tensor, float | Tensor]:
    """Centred rows (g, n, d), 0 where not kept, their mean, total variance with floors (g, 1, 1) and number."""
    centred, mean, count = _centred(layers, kept)
    variance = centred.square().sum((-2, -1), keepdim=True) / count
    floor = noise_floor * mean.square().sum(-1, keepdim=True) + noise * layers.shape[-1] + TINY
    return centred, mean, variance + floor, count


def _inverse(matrices: Tensor, ridge: Tensor) -> Tensor:
    """Inverses (g, m, m) of positive semi-definite matrices plus a ridge (g, 1, 1), which is added to them in place."""
    matrices.diagonal(dim1=-2, dim2=-1).add_(ridge[..., 0])
    return _inverse_definite(matrices)


def _inverse_definite(matrices: Tensor) -> Tensor:
    """Inverses (g, m, m) of positive definite matrices; what is not finite gives NaN, without waiting for the device.

    By blocks, with the Schur complement: on a CPU, LAPACK takes three times as long for many matrices of this size.
    """
    m = matrices.shape[-1]
    if m <= BLOCK:
        return torch.cholesky_inverse(torch.linalg.cholesky_ex(matrices).L)
    half = m // 2
    below = matrices[:, half:, :half]
    first = _inverse_definite(matrices[:, :half, :half])
    across = below @ first
    second = _inverse_definite(torch.baddbmm(matrices[:, half:, half:], across, below.mT, alpha=-1))
    back = second @ across
    inverse = torch.empty_like(matrices)
    inverse[:, :half, :half] = torch.baddbmm(first, across.mT, back)
    inverse[:, half:, :half] = back.neg_()
    inverse[:, :half, half:] = back.mT
    inverse[:, half:, half:] = second
    return inverse


@torch.no_grad()
def _best_ridge(layers: Tensor, target: Tensor, noise_floor: float, noise: Tensor, kept: Tensor | None) -> Tensor:
    """Of :data:`RIDGES`, for each layer (g,), the one with the smallest leave-one-out error."""
    centred, _, scale, count = _scaled(layers, noise_floor, noise, kept)
    z = (centred * scale.rsqrt()).double().nan_to_num(0, 0, 0)  # eigh would raise; the estimate itself will be NaN
    y = target.double()
    n, d = z.shape[-2:]
    if d < n:
        values, vectors = torch.linalg.eigh(z.mT @ z)
        basis = z @ vectors
    else:
        values, vectors = torch.linalg.eigh(z @ z.mT)
        basis = vectors * values.clamp_min(0).sqrt()[:, None]
    projected = basis.mT @ y
    errors = []
    for ridge in RIDGES:
        share = 1 / (values.clamp_min(0) + ridge)
        residual = y - basis @ (share[..., None] * projected)
        leverage = (basis.square() * share[:, None]).sum(-1, keepdim=True)
        errors.append((residual / (1 - leverage - 1 / count)).square().sum((-2, -1)))
    best = torch.stack(errors).argmin(0)
    return torch.tensor(RIDGES, dtype=layers.dtype, device=layers.device)[best]
