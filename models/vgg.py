"""Small VGG: plain convolutions, no skip connections."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .parts import check_images, check_size, initialise

STAGES = ((1, 1), (2, 2), (4, 4, 4), (4, 4))
"""Layers of each stage between poolings, as multiples of the width."""


def vgg(
    input_shape: tuple[int, ...], classes: int, *, width: int = 24, batchnorm: bool = False, init: str = "default"
) -> nn.Module:
    """Nine 3x3 convolutions in stages of 2, 2, 3 and 2, 2x2 max pooling in between, average pooling and a linear head.

    Args:
        input_shape: (channels, height, width) of one sample, at least 8 pixels per side.
        classes: outputs of the head.
        width: channels of the first stage; the others have 2, 4 and 4 times as many.
        batchnorm: normalise before each activation.
        init: initialisation of the convolutions, see :data:`models.parts.INITS`; the head keeps PyTorch's default.

    Source: Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
    """
    check_size(width=width)
    check_images("vgg", input_shape)
    channels, *sides = input_shape
    check_size(**{"height // 8": sides[0] // 8, "width // 8": sides[1] // 8})
    blocks: list[nn.Module] = []
    for index, stage in enumerate(STAGES):
        if index:
            blocks.append(nn.MaxPool2d(2))
        for multiple in stage:
            outputs = multiple * width
            norm = nn.BatchNorm2d(outputs) if batchnorm else nn.Identity()
            convolution = nn.Conv2d(channels, outputs, 3, 1, 1, bias=not batchnorm)
            blocks.append(nn.Sequential(convolution, norm, nn.ReLU()))
            channels = outputs
    body = nn.Sequential(*blocks)
    initialise(body, init)
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(OrderedDict(layers=body, pool=pool, head=nn.Linear(channels, classes)))
