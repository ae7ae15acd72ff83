"""Detect a loss or gradient that is not finite, and find the part of the loss that caused it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from mireg.ablation.arms.loss_term import LossTerm
from mireg.ablation.data import Batch
from mireg.ablation.tasks import Task, arguments


def is_finite(loss: Tensor, network: nn.Module, scaler: torch.amp.GradScaler) -> bool:
    """Whether the loss and the norm of its gradient are finite, with a single wait for the device.

    With loss scaling, only the loss is checked: a non-finite gradient is normal, skips its step and halves the scale.
    """
    if scaler.is_enabled():
        return bool(torch.isfinite(loss.detach()))
    norm = get_total_norm([p.grad for p in network.parameters() if p.grad is not None])
    return bool(torch.isfinite(loss.detach() + norm))


def find_nonfinite(where: str, task: Task, loss: Tensor, whole: Tensor, term: LossTerm, batch: Batch) -> str | None:
    """Say which part of the loss or its gradient is not finite in this process; None if none."""
    if not torch.isfinite(loss):
        return f"{where}: the task loss is {loss.item()}; a lower learning rate may help"
    network = term.network
    if not torch.isfinite(whole):
        broken = [name for name, value in term.values().items() if not torch.isfinite(value)]
        return f"{where}: {term.name} is not finite, in {_listed(broken) or 'its weight'}"
    inputs, targets = batch
    names = [name for name, p in network.named_parameters() if p.grad is not None and not p.grad.isfinite().all()]
    alone = torch.autograd.grad(
        task.loss(network(*arguments(inputs)), targets),
        [p for p in network.parameters() if p.requires_grad],
        allow_unused=True,
    )
    in_task = not get_total_norm([g for g in alone if g is not None]).isfinite()
    of = "the task loss" if in_task else term.name
    if names or in_task or term.model is not network:
        return f"{where}: the gradient of {of} is not finite, in {_listed(names) or 'its norm'}"
    return None


def _listed(names: list[str], most: int = 4) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
