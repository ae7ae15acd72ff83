"""Transformers: a Trainer that adds the term to its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Trainer

from mireg.estimators.target import IGNORED
from mireg.wrapper import MIRegularized, wrap


def target_of(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """Find the labels among a model's inputs.

    For a causal language model they are shifted by one, because a position is rewarded for encoding the next token.
    The last position is -100, which is skipped.

    Returns:
        (n,) or (n, positions) labels, or None if there are none.
    """
    labels = inputs.get("labels")
    if not isinstance(labels, Tensor):
        return None
    if labels.ndim == 2 and type(model).__name__.endswith(CAUSAL):
        return pad(labels[:, 1:], (0, 1), value=IGNORED)
    return labels


CAUSAL = ("ForCausalLM", "LMHeadModel")
"""Class-name endings of models that shift the labels themselves."""


class MITrainer(Trainer):
    """A ``transformers.Trainer`` that rewards the information in successive layers of its model.

    The model itself does not change: the saved, evaluated and uploaded model is not wrapped. The term is
    logged as ``mi_loss``. A checkpoint with the optimizer's state also has the term's (``mireg.pt``), so that resumed
    training continues with the same weight.

    Args:
        args, kwargs: arguments of the Trainer.
        mi: options of :func:`mireg.wrap`.
        mi_target: returns the target, given ``(model, inputs)``; by default :func:`target_of`. If it returns None, the
            term is label-free.

    Example:
        ``MITrainer(model=model, args=arguments, train_dataset=dataset, mi={"estimator": "kde"}).train()``
    """

    def __init__(
        self,
        *args: Any,
        mi: dict[str, Any] | None = None,
        mi_target: Callable[[nn.Module, Mapping[str, Any]], Tensor | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._target = target_of if mi_target is None else mi_target
        self._options = mi or {}
        self._wrapped: MIRegularized | None = None
        self._term: Any = None
        self._state: dict[str, Any] | None = None  # the regularizer's state in a checkpoint to resume from

    def compute_loss(
        self,
        model: nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """Compute the Trainer's own loss and, in training, add the term."""
        if not model.training:
            return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
        wrapped = self._wrap(model)
        target = self._target(self.accelerator.unwrap_model(model), inputs)  # before labels are removed from the inputs
        loss, outputs = super().compute_loss(wrapped, inputs, True, num_items_in_batch)
        term = wrapped.mi_loss(target)
        if num_items_in_batch is not None and self.model_accepts_loss_kwargs:
            # The model has already divided its loss by the tokens of all accumulated batches.
            term = term / self.current_gradient_accumulation_steps
        self._term = term.detach()
        return (loss + term, outputs) if return_outputs else loss + term

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the last step's term to the training logs."""
        if "loss" in logs and self._term is not None:
            logs = {**logs, "mi_loss": self._term.item()}
        super().log(logs, *args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, then remove the hooks from the model."""
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._wrapped is not None:
                self._wrapped.unwrap()
                self._wrapped = None

    def _wrap(self, model: nn.Module) -> MIRegularized:
        """Wrap the model that training runs (possibly parallel or compiled) at the first step."""
        if self._wrapped is None or self._wrapped.module is not model:
            self._wrapped = wrap(model, **self._options)
            if self._state is None:
                steps = self.state.global_step * self.args.gradient_accumulation_steps
                self._wrapped.regularizer.start_at(steps)
            else:
                self._wrapped.regularizer.load_state_dict(self._state)
                self._state = None
        return self._wrapped

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        super()._save_optimizer_and_scheduler(output_dir)
        if self._wrapped is not None and self.args.should_save:
            torch.save(self._wrapped.regularizer.state_dict(), Path(output_dir) / STATE)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        super()._load_optimizer_and_scheduler(checkpoint)
        if checkpoint is not None and (file := Path(checkpoint) / STATE).exists():
            self._state = torch.load(file, map_location=self.args.device, weights_only=True)


STATE = "mireg.pt"
"""Name of the checkpoint file with the regularizer's state."""
