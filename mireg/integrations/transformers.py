"""Transformers: a Trainer that adds the term to its loss."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad
from transformers import Trainer

from mireg import batches
from mireg.batches import TargetOf
from mireg.estimators.target import IGNORED
from mireg.wrapper import MIRegularized, wrap


class MITrainer(Trainer):
    """A ``transformers.Trainer`` that rewards the information in successive layers of its model.

    The model itself does not change: the saved, evaluated and uploaded model is not wrapped. Beside the ``loss`` it
    logs the term as ``mi_loss`` and the rest as ``task_loss``. A checkpoint with the optimizer's state also has the
    term's (``mireg.pt``), so that resumed training continues with the same weight; any other ``train()`` starts the
    term's schedule.

    The target is found among the inputs (:func:`mireg.batches.find_target`). If the loss compares each position with
    the label of the next one, as a causal language model's does, so does the term.

    Args:
        *args: arguments of the Trainer.
        **kwargs: the same by name.
        mi: options of :func:`mireg.wrap`.
        mi_target: key of the target among the inputs, or a function of ``(model, inputs)`` that returns it as the term
            shall use it. If it returns None, the term is label-free.

    Example:
        ``MITrainer(model=model, args=arguments, train_dataset=dataset, mi={"estimator": "kde"}).train()``
    """

    def __init__(
        self,
        *args: Any,
        mi: dict[str, Any] | None = None,
        mi_target: str | Callable[[nn.Module, Mapping[str, Any]], Tensor | None] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self._own_target = mi_target if callable(mi_target) else None
        self._target = TargetOf(None if callable(mi_target) else mi_target)
        self._options = mi or {}
        self._wrapped: MIRegularized | None = None
        self._shifted: bool | None = None  # whether the loss shifts the labels; None before the first step
        self._terms: Tensor | float = 0.0  # sum since the last log
        self._logged = 0  # step of the last log
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
        bare = self.accelerator.unwrap_model(model)
        # Before the Trainer removes labels from the inputs.
        target = self._target(inputs) if self._own_target is None else self._own_target(bare, inputs)
        loss, outputs = super().compute_loss(wrapped, inputs, True, num_items_in_batch)
        if self._own_target is None and target is not None and target.ndim == 2 and not target.is_floating_point():
            if self._shifted is None:
                self._shifted = shifts_labels(bare, target, loss, outputs)
            target = _shifted(target) if self._shifted else target
        term = wrapped.mi_loss(target)
        passes = self.current_gradient_accumulation_steps
        self._terms = self._terms + term.detach() / passes
        if self._divided(num_items_in_batch):
            term = term / passes
        return (loss + term, outputs) if return_outputs else loss + term

    def _divided(self, num_items_in_batch: Any) -> bool:
        """Whether the Trainer's own loss is already divided by the number of accumulated passes."""
        if self.loss_is_scaled_for_ga is not None:
            return bool(self.loss_is_scaled_for_ga)
        by_tokens = self.model_accepts_loss_kwargs and num_items_in_batch is not None
        return by_tokens or self.compute_loss_func is not None

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Add the term and the task's loss to the training logs: means since the last log, as the loss is."""
        if "loss" in logs and self.state.global_step > self._logged:
            term = self.accelerator.reduce(torch.as_tensor(self._terms, device=self.args.device), "mean").item()
            term /= self.state.global_step - self._logged
            logs = {**logs, "mi_loss": term, "task_loss": logs["loss"] - term}
            self._terms, self._logged = 0.0, self.state.global_step
        super().log(logs, *args, **kwargs)

    def train(self, *args: Any, **kwargs: Any) -> Any:
        """Train, then remove the hooks from the model."""
        self._shifted, self._terms, self._logged = None, 0.0, 0
        try:
            return super().train(*args, **kwargs)
        finally:
            if self._wrapped is not None:
                self._wrapped.unwrap()
                self._wrapped = None

    def _wrap(self, model: nn.Module) -> MIRegularized:
        """Wrap the model that training runs (possibly parallel or compiled) at the first step."""
        if self._wrapped is None or self._wrapped._network is not model:
            self._wrapped = wrap(model, **self._options)
            self._logged = self.state.global_step
            if self._state is None:
                self._wrapped.regularizer.start_at(self.state.global_step)
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


def target_of(model: nn.Module, inputs: Mapping[str, Any]) -> Tensor | None:
    """The target among a model's inputs, shifted if the model is expected to shift it; None if there is none."""
    labels = batches.target_of(inputs)
    if labels is None or labels.ndim != 2 or labels.is_floating_point():
        return labels
    return _shifted(labels) if shifts_labels(model, labels) else labels


def _shifted(labels: Tensor) -> Tensor:
    return pad(labels[:, 1:], (0, 1), value=IGNORED)


def shifts_labels(model: nn.Module, labels: Tensor, loss: Tensor | None = None, outputs: Any = None) -> bool:
    """Whether a model's loss compares each position with the label of the next one.

    The loss's gradient says so: it asks for more only of the logit of the class that it compares a position with. Where
    the logits are out of reach, a model is expected to shift if it generates text with a decoder alone.

    Args:
        model: the model itself, without parallel or compiled modules around it.
        labels: (n, positions) classes, -100 where there is none.
        loss: its loss, before the backward pass.
        outputs: its outputs, with ``logits`` (n, positions, classes).
    """
    logits = outputs.get("logits") if isinstance(outputs, Mapping) else None
    if loss is not None and isinstance(logits, Tensor) and logits.requires_grad and logits.shape[:2] == labels.shape:
        (gradient,) = torch.autograd.grad(loss, logits, retain_graph=True, allow_unused=True)
        here, following = labels[:, :-1], labels[:, 1:]
        told = (here != following) & (here >= 0) & (following >= 0)
        if gradient is not None and told.any():
            asked = [
                gradient[:, :-1].gather(2, classes.clamp_min(0)[..., None]).squeeze(2) for classes in (here, following)
            ]
            own, next_ = (wanted[told].float().sum() for wanted in asked)
            return bool(next_ < own)
    known: Any = model
    return hasattr(model, "can_generate") and known.can_generate() and not known.config.is_encoder_decoder


STATE = "mireg.pt"
"""Name of the checkpoint file with the regularizer's state."""
