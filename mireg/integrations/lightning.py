"""Lightning: a callback that adds the term to the loss returned by ``training_step``."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor, nn

from mireg.wrapper import MIRegularized, wrap

NAMES = ("labels", "target", "y")
"""Keys of the target in a batch that is a mapping."""


def target_of(batch: Any) -> Tensor | None:
    """Find the target of a batch: the second of two items, or a mapping's value under one of :data:`NAMES`.

    Returns:
        The target; None if there is none or it is not a tensor.

    >>> import torch
    >>> target_of((torch.zeros(3, 5), torch.tensor([0, 2, 1])))
    tensor([0, 2, 1])
    >>> target_of(torch.zeros(3, 5)) is None
    True
    """
    found: object = None
    if isinstance(batch, Mapping):
        found = next((batch[name] for name in NAMES if name in batch), None)
    elif isinstance(batch, tuple | list) and len(batch) == 2:
        found = batch[1]
    return found if isinstance(found, Tensor) else None


class MIRegularization(Callback):
    """Rewards the information in successive layers of a network inside a LightningModule.

    The network is wrapped while ``fit`` runs and unwrapped afterwards; the keys of its checkpoints do not change. The
    term is logged as ``mi_loss``.

    Args:
        network: name of the LightningModule's attribute that holds the network; each ``training_step`` must call the
            network once.
        target: returns the target of a batch; by default :func:`target_of`. If it returns None, the term is label-free.
        options: options of :func:`mireg.wrap`.

    Example:
        ``Trainer(callbacks=[MIRegularization("network")])``
    """

    def __init__(self, network: str, *, target: Callable[[Any], Tensor | None] | None = None, **options: Any) -> None:
        self.network = network
        self.target = target_of if target is None else target
        self.options = options
        self._model: MIRegularized | None = None
        self._state: dict[str, Any] | None = None

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimises by hand (automatic_optimization=False), where a callback can't "
                "add to the loss: wrap the network with mireg.wrap and add its mi_loss() in training_step"
            )
        network = getattr(pl_module, self.network, None)
        if not isinstance(network, nn.Module):
            raise ValueError(f"network={self.network!r}: {type(pl_module).__name__} has no such submodule")
        self._model = wrap(network, **self.options)
        setattr(pl_module, self.network, self._model)
        step = functools.partial(_add_term, self._model, self.target, pl_module, pl_module.training_step)
        pl_module.training_step = step  # type: ignore[method-assign]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._state is not None and self._model is not None:
            self._model.regularizer.load_state_dict(self._state)

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._model is not None:
            self._state = self._model.regularizer.state_dict()
            setattr(pl_module, self.network, self._model.unwrap())
            del pl_module.training_step
            self._model = None

    def state_dict(self) -> dict[str, Any]:
        return (self._state or {}) if self._model is None else self._model.regularizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self._state = state_dict or None


def _add_term(
    model: MIRegularized,
    target: Callable[[Any], Tensor | None],
    pl_module: LightningModule,
    training_step: Callable[..., Any],
    *args: Any,
    **kwargs: Any,
) -> Any:
    result = training_step(*args, **kwargs)
    if result is None:  # Lightning's way to skip a batch
        return None
    term = model.mi_loss(target(kwargs["batch"] if "batch" in kwargs else args[0]))
    pl_module.log("mi_loss", term.detach())
    if isinstance(result, dict):
        return {**result, "loss": result["loss"] + term}
    return result + term
