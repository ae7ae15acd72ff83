"""Lightning: a callback that adds the term to the loss returned by ``training_step``."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from mireg.batches import FindTarget, TargetOf, target_of
from mireg.wrapper import MIRegularized, wrap

__all__ = ["MIRegularization", "target_of"]


class MIRegularization(Callback):
    """Rewards the information in successive layers of a network inside a LightningModule.

    The network is wrapped while ``fit`` runs and unwrapped afterwards; the keys of its checkpoints do not change. Each
    ``fit`` starts the term's schedule, unless it resumes from a checkpoint or its Trainer has trained before. The term
    is logged as ``mi_loss`` (with several callbacks ``mi_loss/NETWORK``), and the loss without any as ``task_loss``:
    early stopping and plateau schedulers should watch the latter.

    Args:
        network: name of the LightningModule's attribute that holds the network, or of a submodule (``"model.body"``),
            made in its ``__init__``; each ``training_step`` must call the network once. Several networks take a
            callback each.
        target: key, attribute or index of the target in a batch, or a function of the batch; by default it is found
            where batches usually have it (:func:`mireg.batches.find_target`). If there is none, the term is label-free.
        options: options of :func:`mireg.wrap`.

    Example:
        ``Trainer(callbacks=[MIRegularization("network")])``
    """

    def __init__(self, network: str, *, target: str | int | FindTarget | None = None, **options: Any) -> None:
        self.network = network
        self.target = TargetOf(target)
        self.options = options
        self._model: MIRegularized | None = None
        self._state: dict[str, Any] = {}  # the term's, after fit

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if stage != "fit":
            return
        if not pl_module.automatic_optimization:
            raise ValueError(
                f"{type(pl_module).__name__} optimises by hand (automatic_optimization=False), where a callback can't "
                "add to the loss: wrap the network with mireg.wrap and add its mi_loss() in training_step"
            )
        try:
            network = pl_module.get_submodule(self.network)
        except AttributeError:
            raise ValueError(
                f"network={self.network!r}: {type(pl_module).__name__} has no such submodule. It must be there before "
                "fit: make it in __init__, not in setup() or configure_model()"
            ) from None
        self._model = wrap(network, **self.options)
        if self._state and trainer.global_step:  # this Trainer goes on
            self._model.regularizer.load_state_dict(self._state)
        pl_module.set_submodule(self.network, self._model)
        networks = [callback.network for callback in trainer.callbacks if isinstance(callback, MIRegularization)]  # type: ignore[attr-defined]
        name = "mi_loss" if len(networks) == 1 else f"mi_loss/{self.network}"
        logged = ("task_loss", name) if networks[0] == self.network else (name,)  # the first sees no other's term
        step = functools.partial(_add_term, self._model, self.target, pl_module, pl_module.training_step, logged)
        pl_module.training_step = step  # type: ignore[method-assign]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._model is not None:
            self._state = self._model.regularizer.state_dict()
            pl_module.set_submodule(self.network, self._model.unwrap())
            vars(pl_module).pop("training_step", None)  # another callback may have removed it
            self._model = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self.teardown(trainer, pl_module, "fit")  # which Lightning leaves out

    @property
    def state_key(self) -> str:
        return self._generate_state_key(network=self.network)

    def state_dict(self) -> dict[str, Any]:
        return self._state if self._model is None else self._model.regularizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict and self._model is not None:  # after setup, or after a search for a learning rate
            self._model.regularizer.load_state_dict(state_dict)


def _add_term(
    model: MIRegularized,
    target: TargetOf,
    pl_module: LightningModule,
    training_step: Callable[..., Any],
    logged: tuple[str, ...],
    *args: Any,
    **kwargs: Any,
) -> Any:
    result = training_step(*args, **kwargs)
    if result is None:  # Lightning's way to skip a batch
        return None
    term = model.mi_loss(target(kwargs["batch"] if "batch" in kwargs else args[0]))
    loss = result["loss"] if isinstance(result, dict) else result
    pl_module.log_dict({name: (loss if name == "task_loss" else term).detach() for name in logged})
    return {**result, "loss": loss + term} if isinstance(result, dict) else loss + term
