"""Arms from a user's own file: a loss term, a change of the network, or an optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection
from typing import Any

from torch import Tensor, nn

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.ablation.errors import UserError

OF_TERM = ("network", "inputs", "outputs", "targets", "loss", "step")
"""What a function that is a loss term may ask for by the names of its parameters."""

OF_CHANGE = ("network", "inputs")
OF_OPTIMIZER = ("parameters", "lr")


def parameters_of(name: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """What a user's function asks for: its parameters that are known. A UserError names one that is not and must be."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        signature = inspect.Signature()
    known = (*OF_TERM, *OF_OPTIMIZER)
    wanted = tuple(p.name for p in signature.parameters.values() if p.name in known or p.default is p.empty)
    if not wanted or not set(wanted) <= set(known):
        odd = next((key for key in wanted if key not in known), "")
        raise UserError(
            f"{name} is no arm: it has {f'a parameter {odd!r}' if odd else 'no parameters'}; a loss term takes some of "
            f"{', '.join(OF_TERM)}, a change of the network {' and '.join(OF_CHANGE)}, an optimizer parameters and lr"
        )
    return wanted


class OwnTerm(LossTerm):
    """A loss term that is a user's function, called after each training forward pass with what it asks for.

    ``make`` returns the function, a new one for each run; ``wanted`` are its parameters, see :data:`OF_TERM`.
    """

    def __init__(
        self,
        network: nn.Module,
        settings: Term,
        example: Any,
        *,
        name: str,
        make: Callable[[], Callable[..., Tensor]],
        wanted: Collection[str],
    ) -> None:
        self.network = self.model = network
        self.name = f"the term {name}"
        self.needs_loss = "loss" in wanted
        self._wanted = wanted
        self._function = make()
        self._step = 0
        self._last: tuple[Any, Any] = (None, None)
        network.register_forward_hook(self._store)

    def _store(self, network: nn.Module, inputs: tuple[Any, ...], outputs: Any) -> None:
        if network.training:
            self._last = (inputs[0] if len(inputs) == 1 else inputs, outputs)

    def __call__(self, task: Tensor, target: Any) -> Tensor:
        inputs, outputs = self._last
        self._last = (None, None)
        values = dict(zip(OF_TERM, (self.network, inputs, outputs, target, task, self._step), strict=True))
        added = self._function(**{key: values[key] for key in self._wanted})
        if not isinstance(added, Tensor) or added.ndim:
            what = f"a tensor {tuple(added.shape)}" if isinstance(added, Tensor) else type(added).__name__
            raise UserError(f"{self.name} returned {what}: return a 0-dim tensor to add to the loss")
        self._step += 1
        self._values = {self.name: added.detach()}
        return added

    def of_batch(self, task: Tensor, targets: Any) -> Tensor:
        return self(task, targets)

    def parameters(self) -> list[nn.Parameter]:
        return list(self._function.parameters()) if isinstance(self._function, nn.Module) else []

    def state_dict(self) -> dict[str, Any]:
        read: Callable[[], dict[str, Any]] = getattr(self._function, "state_dict", dict)
        return {"step": self._step, "own": read()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._step = state["step"]
        if state["own"]:
            self._function.load_state_dict(state["own"])  # type: ignore[attr-defined]
