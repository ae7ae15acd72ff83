"""Sliced binning: MI of random one-dimensional projections, from soft histograms."""

from __future__ import annotations

import math
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from mireg.estimators.base import NEXT, PairEstimator, in_full_precision
from mireg.estimators.closed_form import closed_form
from mireg.estimators.gram import (
    TINY,
    by_width,
    check_noise,
    compress,
    cycle,
    noise_variance,
    random_directions,
    standardise,
)


class Binning(PairEstimator):
    """Sliced MI from soft histograms, averaged over random pairs of projections.

    Each layer is projected on random directions; slice k of a layer is paired with slice k of the
    next. A pair's MI is split into the part explained by a Gaussian with the same correlation, in closed form, and the
    rest, ``I = -1/2 log(1 - rho^2) + [h(y) - h(v)] + I(x; v)`` with v the standardised residual of y
    on x, averaged with the same for x on y. Only the rest is estimated from histograms, so bins need
    not resolve a strong dependence. Values are distributed over the bins by a softmax of the squared
    distance to their centres, which has a gradient everywhere; tails are compressed first
    (:func:`mireg.estimators.gram.compress`).

    Layers of one unit have one slice, whose MI is that of the layers. For wider layers the estimate is an average over
    directions, in general less than the MI.

    Random slices share the most information if both layers vary along a single direction; rewarding them leads to that.
    With ``slicing="covarying"``, for rewarding, random slices are drawn in the target, or in the earlier of two layers,
    and each is paired with the slice of the other layer that covaries most with it on the given samples, so that a
    layer with many directions is not at a disadvantage. With few samples any two layers have such slices. So the
    estimate, from one joint histogram per pair of slices, is less that with the drawn slices' rows shuffled, each
    again paired with the slice that then covaries most with it: 0 on average if the rows do not belong together. The
    shuffle is fixed for the rows in the order of the first drawn slice.

    Args:
        bins: bins per projection; None means ``round(3 n^(1/3))``, at least 4.
        slices: random projections per layer.
        softness: standard deviation of the kernel, in bin widths.
        correct_bias: subtract the first-order bias of the histograms (Miller-Madow, with the number
            of bins counted softly); covarying slices need none.
        slicing: ``"random"``, the same directions in all layers of one width, or ``"covarying"``.
        noise: noise variance; slices are divided by the root of its sum with their own variance. Relative to that
            variance or, for covarying slices, to the mean over all directions of their layer, so that weak slices
            count less.
        shared_noise: for covarying slices, see :func:`mireg.estimators.gram.gram`.
        noise_floor: squared spread, relative to the squared mean, below which differences are rounding
            noise.
        seed: seed of the random directions, which are the same at every call and do not use the global
            random number generator.

    Source: Goldfeld & Greenewald, Sliced mutual information, NeurIPS 2021; Tsur, Goldfeld & Greenewald, Max-sliced
    mutual information, NeurIPS 2023, for chosen directions; Miller, Note on the bias
    of information estimates, 1955.

    >>> x = torch.linspace(-1, 1, 64)[:, None]
    >>> bool(Binning()(x, x) > 0.5)
    True
    """

    name: ClassVar[str] = "binning"
    reward_options: ClassVar[dict[str, Any]] = {
        "slicing": "covarying",
        "bins": 8,
        "slices": 32,
        "noise": 1.0,
        "shared_noise": 0.01,
    }
    reward_scale: ClassVar[float] = 6.0

    def __init__(
        self,
        bins: int | None = None,
        slices: int = 64,
        softness: float = 0.5,
        correct_bias: bool = True,
        slicing: Literal["random", "covarying"] = "random",
        noise: float = 1e-4,
        shared_noise: float = 0.0,
        noise_floor: float = 1e-5,
        seed: int = 0,
    ) -> None:
        if bins is not None and bins < 2:
            raise ValueError(f"bins={bins}: at least 2 bins are needed")
        if slices < 1:
            raise ValueError(f"slices={slices}: at least 1 projection is needed")
        if not softness > 0:
            raise ValueError(f"softness={softness}: the kernel needs a positive width")
        if slicing not in ("random", "covarying"):
            raise ValueError(f"slicing={slicing!r}: choose random or covarying")
        if not (math.isfinite(noise) and noise > 0):
            raise ValueError(f"noise={noise}: must be a positive number, or a constant layer is 0 / 0")
        check_noise(noise_floor=noise_floor, shared_noise=shared_noise)
        if shared_noise and slicing != "covarying":
            raise ValueError(f"shared_noise={shared_noise}: for slicing='covarying' alone")
        self.bins = bins
        self.slices = slices
        self.softness = softness
        self.correct_bias = correct_bias
        self.slicing = slicing
        self.noise = noise
        self.shared_noise = shared_noise
        self.noise_floor = noise_floor
        self.seed = seed

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            if self.slicing == "covarying":
                return self._above_chance(layers, partner)
            slices = 1 if all(layer.shape[1] == 1 for layer in layers) else self.slices
            z = self._scaled(by_width(layers, lambda stack: self._project(stack, slices)))  # (L, slices, n)
            together = max(1, CHUNK // (len(z) * z.shape[-1] * self._bins(z.shape[-1])))
            nats = torch.cat([self._nats(part, partner) for part in z.split(together, 1)], 1)
            return nats.clamp_max(math.log(z.shape[-1])).mean(-1)

    def _scaled(self, z: Tensor) -> Tensor:
        return z * (z.square().mean(-1, keepdim=True) + self.noise).rsqrt()

    def _nats(self, z: Tensor, partner: slice) -> Tensor:
        """MI (L - 1, slices) of each slice (L, slices, n) with the same slice of the layer's partner."""
        x, y = z[:-1], z[partner]
        rho = (x * y).mean(-1, keepdim=True) / (1 + FINITE)
        unexplained = 1 - rho.square()
        scale = unexplained.rsqrt()
        rests = (y - rho * x) * scale, (x - rho * y) * scale
        counts = _Counts.apply(*(self._assign(values) for values in (z, *rests)), partner)
        single, given_x, given_y = (
            self._entropy(counts[i].flatten(2), counts[i + 1].flatten(2), z.shape[-1]) for i in (0, 2, 4)
        )
        return -unexplained[..., 0].log() / 2 + (single[:-1] + single[partner]) - (given_x + given_y) / 2

    def _project(self, stack: Tensor, slices: int) -> Tensor:
        """Slices (g, slices, n) of a stack (g, n, d), centred."""
        mean = stack.mean(-2, keepdim=True)
        floor = self.noise_floor * mean.square().mean(-1, keepdim=True)  # relative to the projected mean
        z = compress((stack - mean) @ random_directions(stack, slices, self.seed), floor).mT
        return z - z.mean(-1, keepdim=True)

    def _above_chance(self, layers: list[Tensor], partner: slice) -> Tensor:
        """Estimate (L - 1,) with covarying slices, less that on shuffled rows."""
        n, noise = len(layers[0]), noise_variance(layers, self.shared_noise)

        def share(stack: Tensor) -> Tensor:
            z = standardise(stack, self.noise_floor, noise) * stack.shape[-1] ** 0.5  # a direction's mean variance: 1
            return torch.cat([z @ z.mT, z @ random_directions(stack, self.slices, self.seed)], -1)

        gram, slices = by_width(layers, share).split([n, self.slices], -1)
        gram, drawn = (gram[1:], slices[:-1]) if partner == NEXT else (gram[:-1], slices[partner])
        order = drawn[..., 0].detach().argsort(-1)
        shuffled = torch.empty_like(order).scatter_(-1, order, order[:, cycle(n, order.device, self.seed)])
        drawn = torch.cat([drawn, drawn.gather(-2, shuffled[..., None].expand_as(drawn))], -1)
        found = gram @ drawn  # slices along the directions y't, for drawn slices t
        length = (found * drawn).sum(-2, keepdim=True)  # squared, of these directions
        # Below this share of that of a random t it is rounding noise, which may be negative.
        least = gram.diagonal(dim1=-2, dim2=-1).mean(-1)[..., None, None] * drawn.square().sum(-2, keepdim=True)
        found = found * length.clamp_min((self.noise_floor * least).detach() + TINY).rsqrt()
        found, drawn = (
            self._scaled(z.movedim(-1, 0).contiguous()) for z in (found, drawn)
        )  # (2 slices, L - 1 or 1, n)
        if drawn.requires_grad:
            nats = closed_form(self._joint, found, drawn.expand_as(found))
        else:
            nats = closed_form(lambda found: self._joint(found, drawn)[:2], found)
        return (nats[: self.slices] - nats[self.slices :]).mean(0)

    def _joint(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        """MI of slices (S, P, n) with others (S, P or 1, n), less the entropy of y, which shuffling does not change.

        Returns:
            (S, P), and its gradients by x and y.
        """
        n, slopes = x.shape[-1], self._centres(x)[:, None] / self._width(x) ** 2
        of_x, of_y = self._assign(x), self._assign(y)
        rows = of_x.view(*y.shape[:2], -1, n)  # what is paired with one y goes into one product
        cells = rows @ of_y.mT / n
        cells = cells.view(*x.shape[:2], -1, cells.shape[-1])
        log_share = (cells.clamp_min(TINY) / cells.sum(-1, keepdim=True).clamp_min(TINY)).log()
        nats = (cells * log_share).sum((-2, -1))
        by_rows = (log_share / n).view(*rows.shape[:-2], -1, log_share.shape[-1]) @ of_y
        by_x = _by_values(by_rows.view_as(of_x), x, of_x, slopes)
        by_y = _by_values((log_share / n).mT @ of_x, y, of_y, slopes) if y.shape == x.shape else y
        return nats, by_x, by_y

    def _bins(self, n: int) -> int:
        return self.bins if self.bins is not None else max(4, round(3 * n ** (1 / 3)))

    def _assign(self, z: Tensor) -> Tensor:
        """Soft bin memberships (..., bins, n) of values (..., n), which sum to 1 over the bins."""
        weights: Tensor = _Memberships.apply(z, self._centres(z), self._width(z))
        return weights

    def _centres(self, z: Tensor) -> Tensor:
        bins = self._bins(z.shape[-1])
        last = SPAN - SPAN / bins
        return torch.linspace(-last, last, bins, dtype=z.dtype, device=z.device)

    def _width(self, z: Tensor) -> float:
        """Standard deviation of the kernel."""
        return self.softness * 2 * SPAN / self._bins(z.shape[-1])

    def _entropy(self, counts: Tensor, squares: Tensor, n: int) -> Tensor:
        """Entropy in nats over the last dimension, from sums of memberships and of their squares over n samples.

        An empty bin contributes nothing, nor does its gradient. The correction is ``(K - 1) / 2n``, where K is the
        soft count of occupied bins.
        """
        entropy: Tensor = torch.special.entr((counts / n).clamp_min(TINY)).sum(-1)
        if self.correct_bias:
            entropy = entropy + ((squares / counts.clamp_min(EMPTY)).sum(-1) - 1) / (2 * n)
        return entropy


class _Memberships(torch.autograd.Function):
    """Shares of ``exp(-(z - centre)^2 / 2 h^2)`` over the bins, in as few passes over memory as possible.

    Values beyond the bins count as the outermost value.
    """

    @staticmethod
    def forward(z: Tensor, centres: Tensor, h: float) -> Tensor:
        weights = (z.clamp(-SPAN, SPAN)[..., None, :] - centres[:, None]).square_().mul_(-0.5 / h**2)
        weights = torch.threshold_(weights.clamp_min_(LEAST).exp_(), math.exp(LEAST + 1), 0.0)
        return weights.div_(weights.sum(-2, keepdim=True))

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        z, centres, h = inputs
        ctx.save_for_backward(z, output, centres[:, None] / h**2)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        z, weights, slopes = ctx.saved_tensors
        with in_full_precision(weights):
            return _by_values(gradients[0], z, weights, slopes), None, None


def _by_values(by_weights: Tensor, z: Tensor, weights: Tensor, slopes: Tensor) -> Tensor:
    """Gradient by values z (..., n) from that by their memberships (..., bins, n), slopes (bins, 1)."""
    along, total = (torch.cat([slopes, torch.ones_like(slopes)], 1).mT @ (by_weights * weights)).unbind(-2)
    return (along - (slopes.mT @ weights).squeeze(-2) * total) * (z.abs() <= SPAN)


class _Counts(torch.autograd.Function):
    """Sums over samples of memberships and of their squares: in the bins, and in the cells of two tables for each pair.

    Takes memberships (L, slices, bins, n) of the layers, and two of shape (L - 1, slices, bins, n) for the residuals
    paired with each layer except the last, and with its partner. Each gradient accumulates in one buffer.
    """

    @staticmethod
    def forward(layers: Tensor, firsts: Tensor, seconds: Tensor, partner: slice) -> tuple[Tensor, ...]:
        squares = layers.square()
        return (
            layers.sum(-1),
            squares.sum(-1),
            layers[:-1] @ firsts.mT,
            squares[:-1] @ firsts.square().mT,
            layers[partner] @ seconds.mT,
            squares[partner] @ seconds.square().mT,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
        *tensors, ctx.partner = inputs
        ctx.save_for_backward(*tensors)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        layers, *others = ctx.saved_tensors
        with in_full_precision(layers):  # also where somebody goes backward under autocast
            squares = layers.square()
            by_layer, by_square = (gradients[i][..., None].expand_as(layers).contiguous() for i in (0, 1))
            found = []
            for i, (other, side) in enumerate(zip(others, (slice(None, -1), ctx.partner), strict=True)):
                by_joint, by_joint_square = gradients[2 + 2 * i : 4 + 2 * i]
                _add_products(by_layer[side], by_joint, other)
                _add_products(by_square[side], by_joint_square, other.square())
                by_other, by_other_square = by_joint.mT @ layers[side], by_joint_square.mT @ squares[side]
                found.append(by_other.addcmul_(other, by_other_square, value=2))
            return by_layer.addcmul_(layers, by_square, value=2), *found, None


def _add_products(total: Tensor, left: Tensor, right: Tensor) -> None:
    """Add ``left @ right`` (G, slices, bins, n) to G totals, or its sum over G to a single total."""
    if len(total) == len(left):
        total.flatten(0, 1).baddbmm_(left.flatten(0, 1), right.flatten(0, 1))
    else:
        total += (left @ right).sum(0)


SPAN = 3.5
"""Bins cover this many standard deviations on each side; the outermost bins take all values beyond."""

FINITE = 1e-4
"""Keeps the MI of a slice with itself finite."""


LEAST = -21.0
"""Exponent below which a membership is 0: it is negligible in float32, and products of
smaller ones are subnormal numbers, whose arithmetic is slower by an order of magnitude."""

EMPTY = 1e-9
"""Number of samples below which a bin counts as empty: its squares are then ignored."""

CHUNK = 2**19
"""Number of memberships computed at once, so that they fit in the cache."""
