"""Choices that networks share: activations and initialisation schemes."""

from __future__ import annotations

import math

from torch import nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}

INITS = ("default", "he", "xavier", "orthogonal")


def activation(name: str) -> nn.Module:
    """A fresh activation module."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise the weights of every linear and convolutional layer inside a module.

    ``default`` keeps PyTorch's own; ``he``, ``xavier`` and ``orthogonal`` (gain sqrt 2) set biases to 0.
    """
    if scheme not in INITS:
        raise ValueError(f"unknown init {scheme!r}: choose from {', '.join(INITS)}")
    if scheme == "default":
        return
    for layer in module.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            if scheme == "he":
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            elif scheme == "xavier":
                nn.init.xavier_normal_(layer.weight)
            else:
                nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def check_size(**sizes: int) -> None:
    """Raise unless every size is at least 1."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
