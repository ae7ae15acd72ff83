"""Multilayer perceptron with constant width."""

from __future__ import annotations

import math
from collections import OrderedDict

from torch import Tensor, nn

from .parts import activation as make_activation
from .parts import check_size, initialise


def mlp(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 3,
    width: int = 128,
    activation: str = "relu",
    init: str = "default",
    batchnorm: bool = False,
    residual: bool = False,
) -> nn.Module:
    """``depth`` hidden layers of ``width`` units and a linear head.

    Args:
        input_shape: shape of one sample; flattened.
        classes: outputs of the head.
        depth: hidden layers.
        width: units per layer.
        activation: see :data:`models.parts.ACTIVATIONS`.
        init: initialisation of the hidden layers, see :data:`models.parts.INITS`; the head keeps PyTorch's default.
        batchnorm: normalise before each activation.
        residual: add a skip connection around each hidden layer after the first.
    """
    check_size(depth=depth, width=width)
    blocks = []
    for index in range(depth):
        linear = nn.Linear(math.prod(input_shape) if index == 0 else width, width)
        norm = nn.BatchNorm1d(width) if batchnorm else nn.Identity()
        layer = nn.Sequential(linear, norm, make_activation(activation))
        blocks.append(Residual(layer) if residual and index > 0 else layer)
    body = nn.Sequential(*blocks)
    initialise(body, init)
    return nn.Sequential(OrderedDict(flatten=nn.Flatten(), layers=body, head=nn.Linear(width, classes)))


class Residual(nn.Module):
    """Adds the output of a branch to its input."""

    def __init__(self, branch: nn.Module) -> None:
        super().__init__()
        self.branch = branch

    def forward(self, x: Tensor) -> Tensor:
        return x + self.branch(x)
