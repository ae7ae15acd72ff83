"""The base class of all estimators."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from mireg.estimators.gram import random_order
from mireg.estimators.target import check_target, codes, countable

Share = TypeVar("Share")

NEXT, LAST = slice(1, None), slice(-1, None)
"""Partners of all layers except the last: the next layer of each, or the last layer for all."""


class Estimator(ABC):
    """Estimator of the mutual information, or of the dependence, between samples of layers.

    A subclass implements :meth:`estimate`; the public interface is here. Options are constructor arguments, so that an
    instance is a fixed function of its samples (and of its learned state, if it learns).

    A layer whose rows are all equal up to rounding gives about 0, and, with at least 16 rows, a gradient whose norm is
    at most ``100 / (sqrt(noise_floor) * |mean row|)`` if the estimator has a ``noise_floor``.
    The unbiased variants of ``hsic`` and ``cka`` have no such bound: their denominator can be near 0.
    In float32, estimates are too low for layers whose values have a standard deviation below 1e-9 or above 1e17:
    the squares underflow or overflow.

    Attributes:
        measures: ``"mutual information"`` (nats), ``"usable information"`` (nats that predictors of a given family can
            extract: :class:`mireg.estimators.Usable`), or ``"dependence"`` (a bounded index that is not MI and is
            never reported as MI).
        is_differentiable: whether gradients flow from the estimate back to the samples.
        reward_options: options for rewarding it in a loss, where they differ from those for measuring.
        certain: as a reward, what the input has to tell of itself for the share lost to count in full
            (:func:`mireg.kept.share_lost`); 0 where the estimate does not depend on the number of rows.
        reward_scale: factor on the estimate in the reward, where it changes less with a layer than ``usable`` does; the
            bounds on the ratio of gradients (:class:`mireg.balance.Balance`) are for estimates times this factor.
        is_learned: whether it must be fitted to samples before its estimates are meaningful.
    """

    registry: ClassVar[dict[str, type[Estimator]]] = {}
    """Estimators by name. A subclass with a ``name`` of its own is registered."""

    name: ClassVar[str]
    measures: ClassVar[str] = "mutual information"
    is_differentiable: ClassVar[bool] = True
    is_learned: ClassVar[bool] = False
    reward_options: ClassVar[dict[str, Any]] = {}
    certain: ClassVar[float] = 0.0
    reward_scale: ClassVar[float] = 1.0

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if "name" in vars(cls):
            Estimator.registry[cls.name] = cls

    def for_training(self) -> Estimator:
        """The estimator as it is rewarded: options at their default are replaced by those in ``reward_options``.

        An option with another value is kept, and an estimator for training is its own; so an estimator is rewarded in
        the same way whether it is given by name or as an instance.
        """
        if not self.reward_options:
            return self
        options = vars(self)
        defaults = vars(type(self)())
        wanted = {key: value for key, value in self.reward_options.items() if options[key] == defaults[key]}
        if not wanted:
            return self
        kept = {key: value for key, value in options.items() if not key.startswith("_")}
        return type(self)(**{**kept, **wanted})

    def __call__(self, x: Tensor, y: Tensor) -> Tensor:
        """Estimate the MI (or dependence) between two layers.

        Args:
            x: (n, dx) samples; further dimensions are flattened.
            y: (n, dy) samples, row i paired with row i of ``x``.

        Returns:
            0-dim tensor, in nats where ``measures`` is mutual information.

        Raises:
            ValueError: on unequal row counts, fewer than 2 rows, or non-finite values.
            TypeError: on samples that are not floating point.
        """
        return self.successive([x, y])[0]

    def successive(self, layers: Sequence[Tensor]) -> Tensor:
        """Estimate between each layer and the next; computations shared by two pairs are done once.

        Args:
            layers: L tensors (n, d_l), row i of each from the same sample; widths may differ.

        Returns:
            (L - 1,) tensor, float32 or wider.

        Raises:
            ValueError, TypeError: as for a call on two layers, naming the layer.
        """
        check_samples(layers)
        check_finite(layers)
        return self.estimate(as_matrices(layers))

    def about(self, layers: Sequence[Tensor], target: Tensor) -> Tensor:
        """Estimate between each layer and a target.

        Args:
            layers: L tensors (n, d_l), row i of each from the same sample; widths may differ.
            target: row i from the same sample: integer classes (n,), where -100 marks rows to skip, or values, (n,)
                or (n, k).

        Returns:
            (L,) tensor, float32 or wider; zeros if too few rows count
            (:func:`mireg.estimators.target.countable`).

        Raises:
            ValueError, TypeError: as for :meth:`successive`, and for a target that does not fit the rows.
        """
        check_samples(layers, fewest=1)
        check_finite(layers)
        check_target(target, len(layers[0]))
        if target.is_floating_point() and not target.isfinite().all():
            raise ValueError("the target holds NaN or infinite values: remove those rows from the layers and from it")
        return self.estimate_about(as_matrices(layers), target)

    def estimate_about(self, layers: list[Tensor], target: Tensor) -> Tensor:
        """:meth:`about` on checked (n, d_l) matrices and a checked target, without checking the values."""
        layers, target = _with_target(layers, target)
        if len(target) < self.fewest_rows:
            return _nothing(layers)
        code, _ = codes(target, layers[0])
        between = [side for layer in layers for side in (layer, code)]
        return self.estimate(between)[::2]

    def estimate_parts(self, first: Tensor, layers: list[Tensor], targets: Sequence[Tensor]) -> Tensor:
        """Estimate between each layer and each of several targets, for the reward.

        Args:
            first: the first layer of the network (n, d), which sets the unit of noise that all layers share.
            layers: L checked matrices (n, d_l).
            targets: as for :meth:`estimate_about`, on the same rows.

        Returns:
            (targets, L) tensor.
        """
        return torch.stack([self.estimate_about([first, *layers], target)[1:] for target in targets])

    @abstractmethod
    def estimate(self, layers: list[Tensor]) -> Tensor:
        """:meth:`successive` on checked (n, d_l) matrices, without checking the values.

        The hot path: it must not wait for the device.
        """

    @property
    def fewest_rows(self) -> int:
        """With fewer rows that count, nothing is estimated about a target."""
        return 2

    def parameters(self) -> Iterator[nn.Parameter]:
        """The learned parameters; none for most estimators."""
        return iter(())

    def state_dict(self) -> dict[str, Any]:
        """The learned state, for a checkpoint; empty for most estimators."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027
        """Restore the state returned by :meth:`state_dict`."""

    def null_floor(self, *layers: Tensor, permutations: int = 10, seed: int = 0) -> Tensor:
        """Estimate the value without dependence: the mean over shuffles of the rows.

        Args:
            layers: L tensors (n, d_l), as for :meth:`successive`.
            permutations: number of shuffles; each draws one order per layer.
            seed: seed of the shuffles, which do not use the global random number generator.

        Returns:
            (L - 1,) tensor, in the estimate's unit, without a gradient.

        Raises:
            ValueError, TypeError: as for :meth:`successive`, and if ``permutations`` is below 1.
        """
        if permutations < 1:
            raise ValueError(f"permutations={permutations}: at least 1 shuffle is needed")
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            shuffled = [
                self.successive([rows[random_order(len(rows), generator).to(rows.device)] for rows in layers])
                for _ in range(permutations)
            ]
        return torch.stack(shuffled).mean(0)

    def ceiling(self, n: int) -> float:
        """The largest possible estimate on n samples, in the estimate's unit."""
        return math.log(n) if self.measures == "mutual information" else 1.0

    def __repr__(self) -> str:
        options = ", ".join(f"{key}={value!r}" for key, value in vars(self).items() if not key.startswith("_"))
        return f"{type(self).__name__}({options})"


class PairEstimator(Estimator):
    """An estimator that computes a share for each layer, then combines the shares of pairs of layers.

    A subclass implements :meth:`estimate_pairs`.
    """

    def estimate(self, layers: list[Tensor]) -> Tensor:
        return self.estimate_pairs(layers, NEXT)

    def estimate_about(self, layers: list[Tensor], target: Tensor) -> Tensor:
        layers, target = _with_target(layers, target)
        if len(target) < self.fewest_rows:
            return _nothing(layers)
        return self.estimate_pairs([*layers, codes(target, layers[0])[0]], LAST)

    @abstractmethod
    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        """Estimate between each matrix except the last and its partner, (L - 1,).

        Args:
            layers: L matrices (n, d_l).
            partner: :data:`NEXT` or :data:`LAST`, an index into the L shares; it selects L - 1 of them, or one to
                broadcast.
        """


def _with_target(layers: list[Tensor], target: Tensor) -> tuple[list[Tensor], Tensor]:
    """Select the rows that count (:func:`mireg.estimators.target.countable`)."""
    target = target.to(layers[0].device)
    rows = countable(target if not target.is_floating_point() else target.reshape(len(target), -1))
    if target.device.type == "cpu" and rows.all():
        return layers, target
    return [layer[rows] for layer in layers], target[rows]


def _nothing(layers: list[Tensor]) -> Tensor:
    """Zeros (L,) with a gradient of 0."""
    return torch.stack([layer[:0].sum() for layer in layers])


def check_samples(layers: Sequence[Tensor], fewest: int = 2) -> None:
    """Raise unless the layers are floating-point tensors with the same n >= 2 rows, and enough of them."""
    if len(layers) < fewest:
        raise ValueError(f"MI between successive layers needs at least {fewest} layers, got {len(layers)}")
    for index, layer in enumerate(layers):
        if not isinstance(layer, Tensor):
            raise TypeError(f"layer {index} is a {type(layer).__name__}: make a tensor of it, as with torch.as_tensor")
        if not layer.is_floating_point():
            raise TypeError(f"layer {index} has dtype {layer.dtype}: convert samples to floating point first")
        if layer.ndim == 0 or layer.shape[0] < 2:
            raise ValueError(
                f"layer {index} has shape {tuple(layer.shape)}: an estimate needs at least 2 samples (rows); "
                "use a larger batch"
            )
        if layer.shape[0] != layers[0].shape[0]:
            raise ValueError(
                f"layer {index} has {layer.shape[0]} rows and layer 0 has {layers[0].shape[0]}: "
                "row i of every layer must come from the same sample"
            )
        if layer[0].numel() == 0:
            raise ValueError(f"layer {index} has shape {tuple(layer.shape)}: it has no units")


def check_finite(layers: Sequence[Tensor]) -> None:
    """Raise if a layer contains NaN or infinity; waits for the device."""
    sums = (layer.detach().sum(dtype=torch.promote_types(layer.dtype, torch.float32)) for layer in layers)
    if all(math.isfinite(total) for total in sums):  # far cheaper than checking each value
        return
    for index, layer in enumerate(layers):
        broken = int((~torch.isfinite(layer)).sum())
        if broken:
            raise ValueError(
                f"layer {index} holds {broken} NaN or infinite values of {layer.numel()}: "
                "look for a diverged network or remove those samples"
            )


def as_matrices(layers: Sequence[Tensor]) -> list[Tensor]:
    """Convert the layers to (n, d_l) matrices in one dtype, float32 or wider."""
    dtype = torch.float64 if any(layer.dtype == torch.float64 for layer in layers) else torch.float32
    return [layer.flatten(1).to(dtype) if layer.ndim > 1 else layer[:, None].to(dtype) for layer in layers]


def paired(shares: Sequence[Share], partner: slice) -> list[tuple[Share, Share]]:
    """Pair each share except the last with its partner's, for loops over pairs.

    >>> paired("abc", NEXT), paired("abc", LAST)
    ([('a', 'b'), ('b', 'c')], [('a', 'c'), ('b', 'c')])
    """
    others = shares[1:] if partner == NEXT else [shares[-1]] * (len(shares) - 1)
    return list(zip(shares[:-1], others, strict=True))


def in_full_precision(tensor: Tensor) -> torch.autocast:
    """Disable autocast, so that the estimate keeps the precision of its samples."""
    return torch.autocast(device_type=tensor.device.type, enabled=False)
