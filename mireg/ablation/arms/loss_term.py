"""What an arm adds to the loss of the task, and its settings."""

from __future__ import annotations

import copy
import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from mireg.ablation.errors import check
from mireg.regularizer import FEWEST_ROWS
from mireg.wrapper import DEFAULT_WEIGHT


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
        """Whether the term is active, on which layers, and why; empty if the arm has no term."""
        return ""

    def values(self) -> Mapping[str, Tensor]:
        """The last value of each of the term's parts, so that a broken one can be named."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, beside the network and the optimizer."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:  # noqa: B027  # most have none
        """Restore what :meth:`state_dict` returned."""

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
