"""A small network and a batch for it, for tests of loss terms."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn.functional import cross_entropy

import models
from mireg.ablation.arms import LossTerm

X, Y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def network(depth: int = 3) -> Any:
    """An MLP with hidden layers of 6 units."""
    torch.manual_seed(0)
    return models.build("mlp", {"depth": depth, "width": 6}, (1, 8, 8), 3)


def hidden(module: Any) -> list[torch.Tensor]:
    """The outputs of its hidden layers for the batch."""
    layers = [module.flatten(X)]
    for layer in module.layers:
        layers.append(layer(layers[-1]))
    return layers[1:]


def loss_of(term: LossTerm) -> torch.Tensor:
    """The loss of a training step."""
    task = cross_entropy(term.model(X), Y)
    added = term(task, Y)
    return task if added is None else task + added


def added_by(term: LossTerm) -> torch.Tensor:
    """What the term adds to that loss."""
    task = cross_entropy(term.model(X), Y)
    added = term(task, Y)
    assert added is not None
    return added


def reached(term: LossTerm, module: Any) -> list[bool]:
    """Which hidden layers' weights have a gradient of what the term adds."""
    term.network.zero_grad()
    added_by(term).backward()
    return [layer[0].weight.grad is not None and bool(layer[0].weight.grad.any()) for layer in module.layers]
