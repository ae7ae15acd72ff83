"""Convolutional network with constant width at a single resolution."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .mlp import Residual
from .parts import activation as make_activation
from .parts import check_images, check_size, initialise


def cnn(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 14,
    width: int = 16,
    batchnorm: bool = False,
    residual: bool = False,
    activation: str = "relu",
    init: str = "default",
) -> nn.Module:
    """A 5x5 stride-2 stem, ``depth`` 3x3 layers, global average pooling and a linear head.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.
        depth: convolutional layers after the stem.
        width: channels per layer.
        batchnorm: normalise before each activation after the stem.
        residual: add a skip connection around each layer after the stem.
        activation: see :data:`models.parts.ACTIVATIONS`.
        init: initialisation of the convolutions, see :data:`models.parts.INITS`; the head keeps PyTorch's default.
    """
    check_size(depth=depth, width=width)
    check_images("cnn", input_shape)
    blocks: list[nn.Module] = [nn.Sequential(nn.Conv2d(input_shape[0], width, 5, 2, 2), make_activation(activation))]
    for _ in range(depth):
        norm = nn.BatchNorm2d(width) if batchnorm else nn.Identity()
        layer = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), norm, make_activation(activation))
        blocks.append(Residual(layer) if residual else layer)
    body = nn.Sequential(*blocks)
    initialise(body, init)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(layers=body, pool=pool, head=nn.Linear(width, classes)))
