"""The training recipe: optimizer, learning-rate schedule, augmentation, precision."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from mireg.ablation.arms import arm as named_arm
from mireg.ablation.study.config import Cell
from mireg.ablation.training.group import Group

MUON_MOMENTUM = 0.95
"""The published value; ``Cell.momentum`` is that of SGD."""


def make_optimizer(
    network: nn.Module, cell: Cell, arm: str, others: Sequence[nn.Parameter] = ()
) -> torch.optim.Optimizer:
    """Create the optimizer of an arm for the network's parameters, and for others that the arm trains beside them.

    Weight decay applies only to parameters with at least two dimensions, not to biases and normalisation.
    """
    make = named_arm(arm).make_optimizer
    lr, decay, own = cell.lr_of(arm), cell.weight_decay, list(network.parameters())
    small = [p for p in own if decay and p.ndim < 2]
    large = [p for p in own if not (decay and p.ndim < 2)]
    groups = [
        {"params": part, "lr": lr, "weight_decay": rate}
        for part, rate in ((large, decay), (small, 0.0), (list(others), 0.0))
        if part
    ]
    optimizer: torch.optim.Optimizer
    match cell.optimizer:
        case _ if make:
            optimizer = make(parameters=[*own, *others], lr=lr)
        case "sgd":
            optimizer = torch.optim.SGD(groups, momentum=cell.momentum, nesterov=cell.momentum > 0)
        case "adamw":
            optimizer = torch.optim.AdamW(groups, betas=cell.betas)
        case "muon":
            optimizer = cast(torch.optim.Optimizer, HiddenMuon(network, groups, cell))  # has all methods a run calls
        case _:
            optimizer = torch.optim.Adam(groups, betas=cell.betas)
    for group in optimizer.param_groups:
        group["initial_lr"] = group["lr"]
    return optimizer


class HiddenMuon:
    """Muon for the matrices of hidden layers, AdamW for all other parameters, at the same learning rate.

    AdamW trains embeddings, the first and the last layer, biases, normalisation and convolutions.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024; Liu et al., Muon is
    scalable for LLM training, 2025, for scaling the step to AdamW's size.
    """

    def __init__(self, network: nn.Module, groups: Sequence[dict[str, Any]], cell: Cell) -> None:
        hidden = {id(p) for p in hidden_matrices(network)}
        matrices, others = (
            [{**group, "params": [p for p in group["params"] if (id(p) in hidden) == inside]} for group in groups]
            for inside in (True, False)
        )
        muon = torch.optim.Muon(matrices, momentum=MUON_MOMENTUM, adjust_lr_fn="match_rms_adamw")
        self._parts: tuple[torch.optim.Optimizer, ...] = (muon, torch.optim.AdamW(others, betas=cell.betas))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        return [group for part in self._parts for group in part.param_groups]

    def zero_grad(self) -> None:
        for part in self._parts:
            part.zero_grad()

    def step(self) -> None:
        for part in self._parts:
            part.step()

    def state_dict(self) -> dict[str, Any]:
        return {"parts": [part.state_dict() for part in self._parts]}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for part, saved in zip(self._parts, state["parts"], strict=True):
            part.load_state_dict(saved)


def hidden_matrices(network: nn.Module) -> list[nn.Parameter]:
    """The matrices between the first and the last layer of a network, in registration order.

    >>> [tuple(p.shape) for p in hidden_matrices(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4), nn.Linear(4, 5)))]
    [(4, 3)]
    """
    embeddings = {id(m.weight) for m in network.modules() if isinstance(m, nn.Embedding)}
    weights = [
        parameter
        for module in network.modules()
        for name, parameter in module.named_parameters(recurse=False)
        if parameter.ndim >= 2 and name.endswith("weight")
    ]
    outer = {id(weights[0]), id(weights[-1])} if weights else set()
    return [p for p in weights if p.ndim == 2 and id(p) not in outer | embeddings]


def lr_factor(cell: Cell, step: int) -> float:
    """Factor on the learning rate at a step: a linear warm-up, then the schedule down to 0 at the budget.

    >>> cell = Cell("cell", "digits", "mlp", 0.8, steps=10, schedule="linear", warmup_steps=4)
    >>> [round(lr_factor(cell, step), 2) for step in range(10)]
    [0.25, 0.5, 0.75, 1.0, 1.0, 0.83, 0.67, 0.5, 0.33, 0.17]
    """
    if step < cell.warmup_steps:
        return (step + 1) / cell.warmup_steps
    if cell.schedule == "constant":
        return 1.0
    done = (step - cell.warmup_steps) / max(1, cell.steps - cell.warmup_steps)
    return 1 - done if cell.schedule == "linear" else (1 + math.cos(math.pi * done)) / 2


def set_lr(optimizer: torch.optim.Optimizer, factor: float) -> None:
    """Set every group's learning rate to ``factor`` times its initial one."""
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor


class FlipCrop:
    """Flips each image with probability 1/2, and shifts it by up to an eighth of its side with zero padding.

    It has its own random number generator, so that all arms of a seed see the same images.
    """

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed + 2**32)  # differs from the generator for batch order

    def __call__(self, images: Tensor, group: Group) -> Tensor:
        """Augment (n, channels, height, width) images, this process's part of a batch; all draw for the whole batch."""
        n, _, height, width = images.shape
        size, far = n * group.size, (height // 8, width // 8)
        flip = torch.randint(2, (size,), generator=self._generator)
        down = torch.randint(2 * far[0] + 1, (size,), generator=self._generator)
        right = torch.randint(2 * far[1] + 1, (size,), generator=self._generator)
        flip, down, right = (group.share(drawn).to(images.device)[:, None] for drawn in (flip, down, right))
        sample, channel, row, column = (torch.arange(k, device=images.device) for k in images.shape)
        rows, columns = down + row, right + torch.where(flip == 1, width - 1 - column, column)
        padded = pad(images, (far[1], far[1], far[0], far[0]))
        place = sample[:, None, None, None], channel[:, None, None], rows[:, None, :, None], columns[:, None, None]
        return padded[place]

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())


def autocast(cell: Cell, device: torch.device) -> torch.autocast:
    """Context with the precision of the forward pass and the task's loss."""
    return torch.autocast(device.type, getattr(torch, cell.precision), enabled=cell.precision != "float32")
