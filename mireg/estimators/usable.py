"""Usable information: what a linear predictor extracts from a layer about a target, evaluated on held-out samples."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import TINY, by_width, check_noise, grouped
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
    tensor([0.6900, 0.0000])
    """

    name: ClassVar[str] = "usable"
    measures: ClassVar[str] = "usable information"
    reward_options: ClassVar[dict[str, Any]] = {"ridge": 0.1, "per_dimension": True, "shared_noise": 0.1}
    certain: ClassVar[float] = 1.0

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
        check_noise(noise_floor=noise_floor, shared_noise=shared_noise)
        self.shared_noise = shared_noise

    def estimate(self, layers: list[Tensor]) -> Tensor:
        with in_full_precision(layers[0]):
            n, noise = len(layers[0]), self._noise(layers[0])

            def share(pairs: list[int]) -> Tensor:
                read = torch.stack([layers[i] for i in pairs])
                mean = read.mean(-2, keepdim=True)
                # The earlier layer is seen through the noise floors, too: rounding noise is nothing to read.
                floor = self.noise_floor * mean.square().sum((-2, -1)) + noise * read.shape[-1]
                later = torch.stack([layers[i + 1] for i in pairs])
                nats = self._read(later, read - mean, n * floor.detach(), noise, None, (read.shape[-1],))
                return nats[:, 0] * self._factor(read.shape[-1])

            return grouped([(a.shape[1], b.shape[1]) for a, b in pairwise(layers)], share)

    def estimate_about(self, layers: list[Tensor], target: Tensor) -> Tensor:
        return self.estimate_parts(layers[0], layers, [target])[0]

    def estimate_parts(self, first: Tensor, layers: list[Tensor], targets: Sequence[Tensor]) -> Tensor:
        with in_full_precision(first):
            coded = [codes(target, first) for target in targets]
            factors = [
                self._factor(code.shape[1]) if target.is_floating_point() else 0.5
                for target, (code, _) in zip(targets, coded, strict=True)
            ]
            if len(coded) > 1 and all(kept is None for _, kept in coded):  # one inverse for all
                return self._about(first, layers, [code for code, _ in coded], None, factors)
            parts = [
                self._about(first, layers, [code], kept, [factor])
                for (code, kept), factor in zip(coded, factors, strict=True)
            ]
            return torch.cat(parts)

    def _about(
        self, first: Tensor, layers: list[Tensor], codes: list[Tensor], kept: Tensor | None, factors: list[float]
    ) -> Tensor:
        """Estimates (parts, L) about targets (n, k) each, of which the same rows count."""
        centred, _, _ = _centred(torch.cat(codes, 1), kept)
        noise, floor = self._noise(first, kept), torch.zeros_like(centred[0, :1])
        widths = tuple(code.shape[1] for code in codes)
        nats = by_width(layers, lambda stack: self._read(stack, centred, floor, noise, kept, widths))
        return torch.stack([factor * part for factor, part in zip(factors, nats.unbind(1), strict=True)])

    def _factor(self, dimensions: int) -> float:
        return 0.5 if self.per_dimension else dimensions / 2

    def _noise(self, first: Tensor, kept: Tensor | None = None) -> Tensor:
        """Variance (0-dim) of the noise in each unit of a layer."""
        centred, _, count = _centred(first.detach(), kept)
        variance = centred.square().sum(0) / count
        return self.shared_noise * variance.mean().clamp_max(1)

    def _read(
        self,
        layers: Tensor,
        target: Tensor,
        floor: Tensor,
        noise: Tensor,
        kept: Tensor | None,
        widths: tuple[int, ...],
    ) -> Tensor:
        """Logs (g, parts) of baseline over prediction error: layers (g, n, d), targets ([g,] n, sum of widths)."""
        ridge = _best_ridge(layers, target, self.noise_floor, noise, kept) if self.ridge == "auto" else self.ridge
        log: Tensor = _Reading.apply(layers, target, floor + TINY, self.noise_floor, noise, ridge, kept, widths)
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
    target's squared length ([g]), the options of :class:`Usable`, and the widths of the parts that the k columns
    consist of; gives (g, parts), from a single inverse.

    With B = A Y, residuals E = B / a, a the diagonal of A less 1 / n r, W = E / a, V = A W and q the gradient of a
    column's error, the gradient of the errors is ``tr(dK M) + 2 tr(V' q dY)``, where ``M = 2 A diag(c) A - B q V' -
    V q B'`` and c is the sum of q E W over columns.
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
        widths: tuple[int, ...],
    ) -> Tensor:
        centred, mean, scale, count = _scaled(layers, noise_floor, noise, kept)
        r = ridge[:, None, None] if isinstance(ridge, Tensor) else ridge
        n, d = centred.shape[-2:]
        inverse: Tensor
        if d < n:  # A = (I - P Z') / r with P = Z (Z'Z + r I)^-1; scales are kept out of the large matrices
            features = centred.mT @ centred
            # In double precision: I - P Z' takes nearly equal numbers from each other.
            inverse = centred @ _inverse(features.double(), r * scale).to(centred.dtype)
            diagonal = (1 - (inverse * centred).sum(-1)[..., None, :]) / r
        else:
            # Of the mean centred rows know nothing: there A is 1 / r, and drowns the rest. 1 / (1 + r) does as well.
            ones = scale / count if kept is None else scale / count * torch.outer(kept, kept)
            kernel = torch.baddbmm(ones, centred, centred.mT)
            # With a small ridge, rounding makes the inverse of a collapsed layer's kernel meaningless.
            small = isinstance(ridge, Tensor) or ridge < SMALL_RIDGE
            inverse = _inverse(kernel.double() if small else kernel, r * scale).to(kernel.dtype).mul_(scale)
            diagonal = inverse.diagonal(dim1=-2, dim2=-1)[..., None, :]
        a = diagonal - 1 / (count * (r if d < n else r + 1))
        # Targets and residuals are transposed, (k, n): products with few rows are faster than with few columns.
        b = _resolve(target.mT, inverse, centred, r)
        error = _sums((b / a).square().sum(-1), widths) + floor[..., None]
        baseline = _sums(target.square().sum(-2), widths) / (1 - 1 / count) ** 2 + floor[..., None]
        ctx.save_for_backward(layers, target, floor, noise, kept, centred, mean, scale, inverse, a, b, error, baseline)
        ctx.options = noise_floor, ridge, widths, count
        return (baseline / error).log()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers, target, floor, noise, kept, centred, mean, scale, inverse, a, b, error, baseline = ctx.saved_tensors
        noise_floor, ridge, widths, count = ctx.options
        if torch.is_grad_enabled():  # a second derivative is wanted, and the closed form has none
            nats = _reading(layers, target, floor, noise_floor, noise, ridge, kept, widths)
            wanted = [x for x, needed in zip((layers, target), ctx.needs_input_grad, strict=False) if needed]
            found = iter(torch.autograd.grad(nats, wanted, gradients[0], create_graph=True))
            return *(next(found) if needed else None for needed in ctx.needs_input_grad[:2]), *[None] * 6
        r = ridge[:, None, None] if isinstance(ridge, Tensor) else ridge
        n, d = centred.shape[-2:]
        q = _columns(-gradients[0] / error, widths)  # (g, k, 1)
        residual = b / a
        w = residual / a
        v = _resolve(w, inverse, centred, r)
        by_layer = by_target = None
        if ctx.needs_input_grad[0]:  # large matrices are changed in place: new memory costs more than the arithmetic
            c = (q * residual * w).sum(-2)[..., None]
            left, right = torch.cat([q * b, q * v], -2).mT, torch.cat([v, b], -2)
            if d < n:
                weighted = c * inverse
                by_kernel = weighted.sub_(inverse @ (centred.mT @ weighted)).mul_(2 * scale / r)
                by_kernel = by_kernel.baddbmm_(left, right @ centred, alpha=-1)
            else:
                by_kernel = torch.baddbmm((inverse * c.mT) @ inverse, left, right, beta=2, alpha=-1) @ centred
            by_scale = (
                (by_kernel * centred).sum((-2, -1), keepdim=True) / scale / scale
            )  # minus dJ / d scale; its square may be denormal
            by_layer = by_kernel.mul_(2 / scale).addcmul_(centred, -2 * by_scale / count)
            if kept is not None:
                by_layer.mul_(kept[:, None])
            own = by_layer.sum(-2, keepdim=True) / count
            by_layer.sub_(own + (2 * noise_floor * by_scale / count) * mean)
            if kept is not None:
                by_layer.mul_(kept[:, None])
        if ctx.needs_input_grad[1]:
            by_baseline = _columns(gradients[0] / baseline, widths) * (2 / (1 - 1 / count) ** 2)
            by_target = target * by_baseline.mT + 2 * (q * v).mT
            if target.ndim < by_target.ndim:
                by_target = by_target.sum(0)
        return by_layer, by_target, *[None] * 6


def _resolve(x: Tensor, inverse: Tensor, centred: Tensor, ridge: float | Tensor) -> Tensor:
    """x A (g, k, n), from the inverse (g, n, n), or from P = Z (Z'Z + r I)^-1 (g, n, d) where that is smaller."""
    n, d = centred.shape[-2:]
    return (x - (x @ centred) @ inverse.mT) / ridge if d < n else x @ inverse


def _sums(columns: Tensor, widths: tuple[int, ...]) -> Tensor:
    """Sums (..., parts) of columns (..., k) over the parts that they belong to."""
    if len(widths) == 1:
        return columns.sum(-1, keepdim=True)
    return torch.stack([part.sum(-1) for part in columns.split(widths, -1)], -1)


def _columns(parts: Tensor, widths: tuple[int, ...]) -> Tensor:
    """The values (g, parts) of the parts, for each of their columns, (g, k, 1)."""
    if len(widths) == 1:
        return parts[..., None]
    return torch.cat([parts[:, i : i + 1].expand(-1, width) for i, width in enumerate(widths)], -1)[..., None]


def _reading(
    layers: Tensor,
    target: Tensor,
    floor: Tensor,
    noise_floor: float,
    noise: Tensor,
    ridge: float | Tensor,
    kept: Tensor | None,
    widths: tuple[int, ...],
) -> Tensor:
    """What :class:`_Reading` computes, in operations that can be differentiated any number of times."""
    centred, _, scale, count = _scaled(layers, noise_floor, noise, kept)
    z = centred * scale.rsqrt()
    r = ridge[:, None, None] if isinstance(ridge, Tensor) else ridge
    kernel = z @ z.mT + r * torch.eye(z.shape[-2], dtype=z.dtype, device=z.device)
    inverse = torch.linalg.inv_ex(kernel.double()).inverse
    a = inverse.diagonal(dim1=-2, dim2=-1)[..., None] - 1 / (count * r)
    error = _sums((inverse @ target.double() / a).square().sum(-2), widths) + floor[..., None]
    baseline = _sums(target.square().sum(-2), widths) / (1 - 1 / count) ** 2 + floor[..., None]
    return (baseline / error).log().to(layers.dtype)


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
