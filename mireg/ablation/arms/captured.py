"""A network whose hidden layers are captured, and the terms that are computed from them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.ablation.errors import UserError
from mireg.ablation.tasks import arguments
from mireg.layers import INPUT, Taps

T = TypeVar("T")


class Captured(nn.Module):
    """A network that stores the outputs of its hidden layers in training.

    Attributes:
        network: the bare network.
        active: whether outputs are captured.
        added: modules and parameters of the term, part of the trained module so that processes that share a batch keep
            them in sync.
    """

    def __init__(self, network: nn.Module, taps: Taps) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        self.active = True
        self.added: nn.Module | None = None
        self._hidden: list[str] = []
        self._outputs: dict[str, Tensor] = {}

    def observe(self, example: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The outputs of the network, and those of each hidden layer in order, for a few inputs.

        Args:
            example: a batch of inputs; a tuple for a network of several.

        Raises:
            UserError: if the network offers no layers.
        """
        training = self.network.training
        self.network.eval()  # so that this pass changes no statistics and draws no random numbers
        with torch.no_grad():
            outputs, layers = self.taps.run(*arguments(example))
        self.network.train(training)
        self._hidden = [name for name in layers if name != INPUT]
        if not self._hidden:
            raise UserError(
                f"the arm does not apply, no hidden layers were found: {self.taps.reason}; name them, or leave it out"
            )
        return outputs, {name: layers[name] for name in self._hidden}

    def forward(self, *inputs: Any) -> Any:
        if not (self.active and self.training and torch.is_grad_enabled()):
            return self.network(*inputs)
        result, self._outputs = self.taps.run(*inputs)
        return result

    def pop(self) -> dict[str, Tensor]:
        """Return and clear the hidden layers' outputs in the last training forward."""
        layers, self._outputs = self._outputs, {}
        return {name: layers[name] for name in self._hidden}


class LayerTerm(LossTerm):
    """A term computed from the outputs of hidden layers; its settings are class attributes, by default its paper's.

    Args:
        network: the network to train.
        settings: settings of the MI term, whose layers are used, without the input.
        example: a few inputs, to find the layers and their shapes.
        **options: other values of its settings.
    """

    def __init__(self, network: nn.Module, settings: Term, example: Any, **options: Any) -> None:
        for name, value in options.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no setting {name!r}")
            setattr(self, name, value)
        self.network = network
        self.settings = settings
        self.model = self._captured = self.capture(network, Taps(network, settings.layer_spec))
        self._values: dict[str, Tensor] = {}
        self._step = 0
        self.prepare(*self._captured.observe(example))

    def capture(self, network: nn.Module, taps: Taps) -> Captured:
        """The module to call in place of the network."""
        return Captured(network, taps)

    def prepare(self, outputs: Any, layers: dict[str, Tensor]) -> None:
        """Choose layers and make what is trained with the network, given the example's outputs."""

    def parameters(self) -> Sequence[nn.Parameter]:
        return [] if self._captured.added is None else list(self._captured.added.parameters())

    def values(self) -> Mapping[str, Tensor]:
        return self._values

    def state_dict(self) -> dict[str, Any]:
        added = self._captured.added
        return {"step": self._step, **({} if added is None else {"added": added.state_dict()})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        if self._captured.added is not None:
            self._captured.added.load_state_dict(state["added"])


def at_depth(layers: Sequence[T], fraction: float) -> T:
    """The layer at a fraction of the depth, where layers are counted from 1.

    >>> at_depth("abcdefghijkl", 0.25)
    'c'
    """
    return layers[max(1, round(fraction * len(layers))) - 1]
