"""The term of `mireg.wrap` as an arm: on the true target or as a control, at all layers or only the last."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.estimators import Estimator
from mireg.layers import Layout, Taps
from mireg.regularizer import MIRegularizer
from mireg.schedules import Linear
from mireg.wrapper import MIRegularized


class Reward(LossTerm):
    """The term of :func:`mireg.wrap` as an arm.

    Args:
        network: the network to wrap.
        settings: settings of the term.
        example: not used.
        estimator: creates the estimator, a new one for each run, so that no learned state carries over.
        sees_target: whether the term receives the target.
        shuffled: control: only for the term, shuffle the rows of the target (or, without a target, of each layer).
            This keeps every marginal and leaves no dependence to reward.
        last: reward only the last hidden layer.
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
    """Control: applies another estimator to independently shuffled rows of each layer."""

    def __init__(self, inner: Estimator) -> None:
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.measures = inner.measures  # type: ignore[misc]

    def estimate(self, layers: list[Tensor]) -> Tensor:
        return self.inner.estimate([layer[torch.randperm(len(layer), device=layer.device)] for layer in layers])


class LastLayer(MIRegularizer):
    """Baseline: rewards only the last of the layers after the first."""

    def step(
        self, layers: Mapping[str, Tensor], target: Tensor | None = None, layouts: Mapping[str, Layout] | None = None
    ) -> Tensor | None:
        names = list(layers)
        return super().step({name: layers[name] for name in (names[0], names[-1])}, target, layouts)
