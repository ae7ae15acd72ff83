"""The term of `mireg.wrap` as an arm: with or without the target, as a control, or at the last layer alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mireg import estimators
from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.ablation.tasks import arguments
from mireg.estimators import Estimator
from mireg.layers import Taps
from mireg.schedules import Constant, Linear
from mireg.term import MIRegularizer
from mireg.wrapper import MIRegularized


class Reward(LossTerm):
    """The term of :func:`mireg.wrap` as an arm.

    Args:
        network, settings, example: as for every arm; the example is not used.
        estimator: name of the estimator; each run has a new one.
        sees_target: whether the term receives the target.
        shuffled: control: shuffle the rows of what the layers are asked about, the target and the input, at each step.
            This keeps every marginal and leaves no dependence to reward.
        last: reward only the last hidden layer.
    """

    name = "the MI term"
    model: MIRegularized

    def __init__(
        self,
        network: nn.Module,
        settings: Term,
        example: Tensor,
        *,
        estimator: str,
        sees_target: bool = True,
        shuffled: bool = False,
        last: bool = False,
    ) -> None:
        kind = LastLayer if last else MIRegularizer
        weight = Linear(settings.weight, settings.decay_steps)
        self._estimator = estimators.get(estimator).for_training()
        made = Shuffled(self._estimator) if shuffled else self._estimator
        self._regularizer = kind(made, weight, samples=settings.samples, gather=True)
        self.network = network
        self.model = MIRegularized(network, Taps(network, settings.layer_spec), self._regularizer)
        self._sees_target = sees_target

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        return self.model.mi_loss(target if self._sees_target else None)

    @property
    def verdict(self) -> str:
        return self.model.verdict

    def values(self) -> Mapping[str, Tensor]:
        return self.model.mi_terms()

    def scale(self, inputs: Any, target: Tensor | None) -> dict[str, Any]:
        """The floor is the mean over layers with the rows of what they are asked about shuffled, as in the control."""
        estimator, samples, taps = self._estimator, self._regularizer.samples, self.model.taps
        control = type(self._regularizer)(Shuffled(estimator), Constant(1.0), samples=samples)
        training = self.network.training
        self.network.eval()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            outputs, layers = taps.run(*arguments(inputs))
            shape = outputs.shape if isinstance(outputs, Tensor) else None
            control.step(layers, target if self._sees_target else None, taps.known_layouts, outputs=shape)
        self.network.train(training)
        if not control.terms:
            return {}
        rows = min(samples, len(arguments(inputs)[0]))
        floor = torch.stack(list(control.terms.values())).mean().item()
        return {"estimator": estimator.name, "samples": rows, "floor": floor, "ceiling": estimator.ceiling(rows)}

    def state_dict(self) -> dict[str, Any]:
        return self._regularizer.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._regularizer.load_state_dict(state)


class Shuffled(Estimator):
    """Control: asks the layers of another estimator about rows that are not theirs.

    ``certain`` stays 0: what layers lose of nothing counts in full, so that the control is not dead for want of weight.
    """

    def __init__(self, inner: Estimator) -> None:
        self.inner = inner
        self.name = inner.name  # type: ignore[misc]
        self.measures = inner.measures  # type: ignore[misc]
        self.reward_scale = inner.reward_scale  # type: ignore[misc]

    def estimate(self, layers: list[Tensor]) -> Tensor:
        return self.inner.estimate(layers)

    def estimate_parts(self, first: Tensor, layers: list[Tensor], targets: Sequence[Tensor]) -> Tensor:
        order = torch.randperm(len(first), device=first.device)
        return self.inner.estimate_parts(first, layers, [target[order] for target in targets])


class LastLayer(MIRegularizer):
    """Baseline: rewards only the last of the layers after the first."""

    def step(self, layers: Mapping[str, Tensor], *args: Any, **kinds: Any) -> Tensor | None:
        names = list(layers)
        return super().step({name: layers[name] for name in (names[0], names[-1])}, *args, **kinds)
