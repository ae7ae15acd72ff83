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
        active: whether outputs are captured.
        added: what the term trains, a part of this module so that processes that share a batch keep it in sync.
    """

    def __init__(self, network: nn.Module, taps: Taps) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        self.active = True
        self.added = nn.Module()
        self._hidden: list[str] = []
        self._outputs: dict[str, Tensor] = {}

    def observe(self, example: Any) -> tuple[Tensor, dict[str, Tensor]]:
        """The outputs of the network, and of each hidden layer in order, of which it must have one, for some inputs."""
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

    The layers are those of the MI term, without the input, found with a few example inputs. ``**options`` are other
    values of its settings.
    """

    model: Captured

    def __init__(self, network: nn.Module, settings: Term, example: Any, **options: Any) -> None:
        for name, value in options.items():
            if not hasattr(type(self), name):
                raise TypeError(f"{type(self).__name__} has no setting {name!r}")
            setattr(self, name, value)
        self.network = network
        self.settings = settings
        self.model = Captured(network, Taps(network, settings.layer_spec))
        self._step = 0
        outputs, layers = self.model.observe(example)
        with torch.random.fork_rng():  # so that every arm sees the same batches
            added = self.prepare(outputs, layers)
        if added is not None:
            self.model.added = added.to(layers[next(iter(layers))].device)

    def prepare(self, outputs: Any, layers: dict[str, Tensor]) -> nn.Module | None:
        """Choose layers, and return what is trained with the network, given the example's outputs."""
        return None

    def stacked(self, values: Mapping[str, Tensor]) -> Tensor:
        """The value of each part of the term, kept by name for :meth:`values`, as one tensor."""
        self._values = {name: value.detach() for name, value in values.items()}
        return torch.stack(list(values.values()))

    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self.model.added.parameters())

    def state_dict(self) -> dict[str, Any]:
        added = self.model.added.state_dict()
        return {"step": self._step, **({"added": added} if added else {})}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        self.model.added.load_state_dict(state.get("added", {}))


def at_depth(layers: Sequence[T], fraction: float) -> T:
    """The layer at a fraction of the depth, where layers are counted from 1.

    >>> at_depth("abcdefghijkl", 0.25)
    'c'
    """
    return layers[max(1, round(fraction * len(layers))) - 1]
