"""What an arm adds to the task's loss: nothing, the MI term, or another method's."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.errors import check
from mireg.estimators import Estimator
from mireg.layers import Layout, Taps
from mireg.regularizer import FEWEST_ROWS, MIRegularizer
from mireg.schedules import Linear
from mireg.wrapper import DEFAULT_WEIGHT, MIRegularized


@dataclass(frozen=True)
class Term:
    """Settings of the MI term, the same for every arm that has it.

    Attributes:
        weight: at the first step, relative to the task's gradient (:class:`mireg.MIRegularizer`).
        decay_steps: steps over which it falls to 0.
        samples: rows of each batch that the estimate uses.
        layers: as for :func:`mireg.wrap`; other methods look at the same ones.
    """

    weight: float = DEFAULT_WEIGHT.start
    decay_steps: int = DEFAULT_WEIGHT.steps
    samples: int = 128
    layers: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        check("weight", self.weight, math.isfinite(self.weight) and self.weight >= 0, "give at least 0")
        check("decay_steps", self.decay_steps, self.decay_steps >= 1, "give at least 1")
        check("samples", self.samples, self.samples >= FEWEST_ROWS, f"an estimate needs at least {FEWEST_ROWS}")

    @property
    def layer_spec(self) -> str | list[str]:
        """The layers, as :class:`mireg.layers.Taps` takes them."""
        return "auto" if self.layers == ("auto",) else list(self.layers)


class LossTerm(ABC):
    """An addition to the task's loss that goes with the forward passes of one network.

    ``term(task, target)`` after each training forward of :attr:`model` gives what is added to the loss.

    Attributes:
        name: in messages.
        network: the bare network.
        model: takes the network's place in the forward pass.
    """

    name = "no term"
    network: nn.Module
    model: nn.Module

    @abstractmethod
    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor | None:
        """The term of the last training forward, 0-dim; None where the arm has none.

        Args:
            task: the task's loss, with its graph.
            target: of the batch: (n,) classes, (n, k) floats, or (n, positions) tokens; None for a term without.
        """

    def parameters(self) -> Sequence[nn.Parameter]:
        """What the optimizer trains beside the network's own."""
        return ()

    @property
    def verdict(self) -> str:
        """Whether the term acts, on what, and why; empty where the arm has none."""
        return ""

    def values(self) -> Mapping[str, Tensor]:
        """The last value of each of the term's parts, so that a broken one can be named."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, beside the network and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most have none
        """Take up what :meth:`state_dict` gave."""

    @abstractmethod
    def bare_copy(self) -> nn.Module:
        """A copy of the network alone, nothing attached to it."""


class NoTerm(LossTerm):
    """Plain training.

    Args:
        network: to train.
        settings: of the MI term.
        example: a few inputs, on the network's device, for terms that must know the layers beforehand.
    """

    def __init__(self, network: nn.Module, settings: Term, example: Tensor) -> None:
        self.network = self.model = network

    def __call__(self, task: Tensor, target: Tensor | None) -> None:
        return None

    def bare_copy(self) -> nn.Module:
        return copy.deepcopy(self.network)


class Reward(LossTerm):
    """The term of :func:`mireg.wrap`, as an arm has it.

    Args:
        network: to wrap.
        settings: of the term.
        example: not needed.
        estimator: makes what is rewarded, one for each run: what it learns is not the next one's.
        sees_target: whether the term is given the target.
        shuffled: control: for the term alone, rows of the target (or, without one, of each layer) are shuffled, which
            leaves every marginal as it is and no dependence to reward.
        last: reward the last hidden layer alone.
    """

    name = "the MI term"

    def __init__(
        self,
        network: nn.Module,
        settings: Term,
        example: Tensor,
        *,
        estimator: Callable[[], Estimator],
        sees_target: bool = True,
        shuffled: bool = False,
        last: bool = False,
    ) -> None:
        made = ShuffledPairs(estimator()) if shuffled and not sees_target else estimator()
        weight = Linear(settings.weight, settings.decay_steps)
        kind = LastLayer if last else MIRegularizer
        self._regularizer = kind(made, weight, samples=settings.samples, gather=True)
        self.network = network
        self.model = self._wrapped = MIRegularized(network, Taps(network, settings.layer_spec), self._regularizer)
        self._sees_target = sees_target
        self._shuffled = shuffled and sees_target

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        if target is not None and self._shuffled:
            flat = target.flatten() if not target.is_floating_point() else target
            target = flat[torch.randperm(len(flat), device=flat.device)].view_as(target)
        return self._wrapped.mi_loss(target if self._sees_target else None)

    @property
    def verdict(self) -> str:
        return self._wrapped.verdict

    def values(self) -> Mapping[str, Tensor]:
        return self._wrapped.mi_terms()

    def state_dict(self) -> dict[str, Any]:
        return self._regularizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._regularizer.load_state_dict(state)

    def bare_copy(self) -> nn.Module:
        return copy.deepcopy(self._wrapped).unwrap()


class ShuffledPairs(Estimator):
    """Control: another estimator, which sees the rows of each layer in an order of its own."""

    def __init__(self, inner: Estimator) -> None:
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.measures = inner.measures  # type: ignore[misc]

    def estimate(self, layers: list[Tensor]) -> Tensor:
        return self.inner.estimate([layer[torch.randperm(len(layer), device=layer.device)] for layer in layers])


class LastLayer(MIRegularizer):
    """Rival: of the layers after the first, the last alone is rewarded."""

    def step(
        self, layers: Mapping[str, Tensor], target: Tensor | None = None, layouts: Mapping[str, Layout] | None = None
    ) -> Tensor | None:
        names = list(layers)
        return super().step({name: layers[name] for name in (names[0], names[-1])}, target, layouts)
