"""The loss term of an arm, and the settings of the MI term."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from torch import Tensor, nn

from mireg.ablation.errors import check
from mireg.ablation.setting import check_settings, setting
from mireg.ablation.tasks import Loss, as_target, natural_loss
from mireg.term import FEWEST_ROWS
from mireg.wrapper import DEFAULT_WEIGHT


@dataclass(frozen=True)
class Term:
    """Settings of the MI term, the same for every arm that has it.

    Attributes:
        weight: weight at the first step, relative to the task's gradient (:class:`mireg.MIRegularizer`).
        decay_steps: number of steps over which the weight falls to 0.
        samples: number of rows of each batch that the estimate uses.
        layers: as for :func:`mireg.wrap`; other methods use the same layers.
    """

    weight: float = setting(
        "Weight of the MI term at the first step, relative to the task's gradient.", DEFAULT_WEIGHT.start, least=0
    )
    decay_steps: int = setting("Steps over which the weight falls to 0.", DEFAULT_WEIGHT.steps, least=1)
    samples: int = 128
    layers: tuple[str, ...] = setting(
        "Layers whose outputs are rewarded: names or globs; by default all successive ones.", ("auto",)
    )

    def __post_init__(self) -> None:
        check_settings(self)
        check("samples", self.samples, self.samples >= FEWEST_ROWS, f"an estimate needs at least {FEWEST_ROWS}")

    @property
    def layer_spec(self) -> str | list[str]:
        """The layers in the form that :class:`mireg.layers.Taps` accepts."""
        return "auto" if self.layers == ("auto",) else list(self.layers)


class LossTerm(ABC):
    """A term to add to the task's loss, computed from the forward passes of one network.

    Call ``term(task, target)`` after each training forward of :attr:`model` and add the result to the loss.

    Attributes:
        name: the name in messages.
        network: the bare network.
        model: the module to call in place of the network.
        needs_loss: whether the term uses the value of the task's loss.
        loss: the task's loss, for terms that have heads of their own.
        target: what :meth:`__call__` gets of a batch's targets, see :class:`mireg.ablation.Task`.
    """

    name = "no term"
    network: nn.Module
    model: nn.Module
    needs_loss = False
    loss: Loss = staticmethod(natural_loss)
    target: Callable[[Any], Tensor | None] = staticmethod(as_target)
    _values: Mapping[str, Tensor] = MappingProxyType({})

    @abstractmethod
    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor | None:
        """Compute the term for the last training forward, 0-dim; None if the arm has no term.

        Args:
            task: the task's loss, with its graph.
            target: the batch's target: (n,) classes, (n, k) floats, or (n, positions) tokens; None for no target.
        """

    def of_batch(self, task: Tensor, targets: Any) -> Tensor | None:
        """The same, given a batch's targets in the form that the task's loss takes."""
        return self(task, self.target(targets))

    def parameters(self) -> Sequence[nn.Parameter]:
        """Parameters to train in addition to the network's own."""
        return ()

    @property
    def verdict(self) -> str:
        """Whether the term is active, on which layers, and why; empty if the arm has no term."""
        return ""

    def values(self) -> Mapping[str, Tensor]:
        """The last value of each part of the term, to name one that is not finite."""
        return self._values

    def scale(self, inputs: Any, target: Tensor | None) -> dict[str, Any]:
        """The scale of :meth:`values`, from a batch: ``estimator``, ``samples``, ``floor``, ``ceiling``; or nothing."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs in addition to the network and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most terms have no state
        """Restore the state returned by :meth:`state_dict`."""


class NoTerm(LossTerm):
    """Plain training without a term."""

    def __init__(self, network: nn.Module, settings: Term, example: Any) -> None:
        self.network = self.model = network

    def __call__(self, task: Tensor, target: Tensor | None) -> None:
        return None
