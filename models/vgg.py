"""Small VGGs: plain convolutions, no skip connections."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .parts import check_images, check_size, initialise

STAGES = {
    10: ((1, 1), (2, 2), (4, 4, 4), (4, 4)),
    13: ((1, 1), (2, 2), (4, 4, 4), (4, 4, 4)),
}
"""By depth, the convolutions of each stage between poolings, as multiples of the width."""

DENSE = 8
"""Units of the dense layers, as a multiple of the width."""


def vgg(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 10,
    width: int = 24,
    batchnorm: bool = False,
    init: str = "default",
) -> nn.Module:
    """3x3 convolutions in four stages, 2x2 max pooling in between, and a head.

    At depth 10, nine convolutions, average pooling and a linear head. At depth 13, ten convolutions and the published
    head: two dense layers with dropout 0.5 on the flattened maps, then a linear one.

    Args:
        input_shape: (channels, height, width) of one sample, at least 8 pixels per side.
        classes: outputs of the head.
        depth: layers with weights, 10 or 13.
        width: channels of the first stage; the others have 2, 4 and 4 times as many, dense layers 8
            times as many units.
        batchnorm: normalise before each activation.
        init: initialisation of the hidden layers, see :data:`models.parts.INITS`; the head keeps PyTorch's default.

    Source: Simonyan & Zisserman, Very deep convolutional networks for large-scale image recognition, ICLR 2015.
    """
    check_size(width=width)
    check_images("vgg", input_shape)
    if depth not in STAGES:
        raise ValueError(f"depth={depth}: a vgg has {' or '.join(map(str, STAGES))} layers")
    channels, *sides = input_shape
    check_size(**{"height // 8": sides[0] // 8, "width // 8": sides[1] // 8})
    blocks: list[nn.Module] = []
    for index, stage in enumerate(STAGES[depth]):
        if index:
            blocks.append(nn.MaxPool2d(2))
        for multiple in stage:
            outputs = multiple * width
            norm = nn.BatchNorm2d(outputs) if batchnorm else nn.Identity()
            convolution = nn.Conv2d(channels, outputs, 3, 1, 1, bias=not batchnorm)
            blocks.append(nn.Sequential(convolution, norm, nn.ReLU()))
            channels = outputs
    body = nn.Sequential(*blocks)
    if depth == 10:
        pool, dense, features = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Sequential(), channels
    else:
        units, flat = DENSE * width, channels * (sides[0] // 8) * (sides[1] // 8)
        pool, features = nn.Sequential(nn.Flatten()), units
        dense = nn.Sequential(*(_dense(inputs, units, batchnorm) for inputs in (flat, units)))
    initialise(nn.ModuleList([body, dense]), init)
    parts: dict[str, nn.Module] = {"layers": body, "pool": pool}
    if len(dense):
        parts["dense"] = dense
    return nn.Sequential(OrderedDict(parts, head=nn.Linear(features, classes)))


def _dense(inputs: int, units: int, batchnorm: bool) -> nn.Module:
    norm = nn.BatchNorm1d(units) if batchnorm else nn.Identity()
    return nn.Sequential(nn.Linear(inputs, units, bias=not batchnorm), norm, nn.ReLU(), nn.Dropout(0.5))
