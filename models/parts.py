"""Shared parts of the networks: activations and initialisation schemes."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

ACTIVATIONS: dict[str, type[nn.Module]] = {"relu": nn.ReLU, "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "gelu": nn.GELU}

LARGEST = 100_000
"""Depth or width above which building the network would take hours or all memory."""

INITS = ("default", "he", "xavier", "orthogonal", "looks-linear")


def activation(name: str) -> nn.Module:
    """Create an activation module."""
    if name not in ACTIVATIONS:
        raise ValueError(f"unknown activation {name!r}: choose from {', '.join(ACTIVATIONS)}")
    return ACTIVATIONS[name]()


def initialise(module: nn.Module, scheme: str) -> None:
    """Initialise the weights of every linear and convolutional layer inside a module.

    ``default`` keeps PyTorch's initialisation; all others set biases to 0. ``orthogonal`` has gain sqrt 2.
    ``looks-linear`` gives layers mirrored halves, so that in each pair of ReLU units one is always
    active: a chain of layers is then linear at the start, and its gradients cannot shatter.

    Raises:
        ValueError: on an unknown scheme, or an odd width with ``looks-linear``.

    Source of looks-linear: Balduzzi et al., The shattered gradients problem, ICML 2017, section 4.
    """
    if scheme not in INITS:
        raise ValueError(f"unknown init {scheme!r}: choose from {', '.join(INITS)}")
    if scheme == "default":
        return
    layers = [layer for layer in module.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    for index, layer in enumerate(layers):
        if scheme == "he":
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        elif scheme == "xavier":
            nn.init.xavier_normal_(layer.weight)
        elif scheme == "orthogonal":
            nn.init.orthogonal_(layer.weight, gain=math.sqrt(2))
        else:
            _mirror(layer.weight, input_mirrored=index > 0)
        if layer.bias is not None:
            nn.init.zeros_(layer.bias)


@torch.no_grad()
def _mirror(weight: Tensor, *, input_mirrored: bool) -> None:
    """Fill a weight with [[W, -W], [-W, W]], W orthogonal, or with [[W], [-W]] if the input has no mirrored halves.

    A convolution with mirrored input uses only the centre of its window, so that it stays orthogonal.
    """
    if weight.shape[0] % 2:
        raise ValueError(f"width={weight.shape[0]}: init 'looks-linear' needs an even width, for its mirrored halves")
    half = weight.shape[0] // 2
    if not input_mirrored:
        nn.init.orthogonal_(weight[:half])
        weight[half:] = -weight[:half]
        return
    w = nn.init.orthogonal_(weight.new_empty(half, weight.shape[1] // 2))
    middle = tuple(size // 2 for size in weight.shape[2:])
    weight.zero_()
    mirrored: Any = (..., *middle)
    weight[mirrored] = torch.cat([torch.cat([w, -w], 1), torch.cat([-w, w], 1)])


def check_size(**sizes: int) -> None:
    """Raise unless every size is at least 1 and plausibly small."""
    for name, size in sizes.items():
        if size < 1:
            raise ValueError(f"{name}={size}: must be at least 1")
        if size > LARGEST:
            raise ValueError(f"{name}={size}: must be at most {LARGEST}")


def check_dropout(dropout: float) -> None:
    """Raise unless a dropout rate is one."""
    if not 0 <= dropout < 1:
        raise ValueError(f"dropout={dropout}: must be at least 0 and less than 1")


def check_heads(heads: int, width: int) -> None:
    """Raise unless the attention heads split the width evenly."""
    if width % heads:
        raise ValueError(f"heads={heads}: must divide width={width}")


def check_images(name: str, input_shape: tuple[int, ...]) -> None:
    """Raise unless the samples of the named network are images."""
    if len(input_shape) != 3:
        raise ValueError(f"a {name} needs samples of shape (channels, height, width), not {input_shape}")
