"""ResNets for small images."""

from __future__ import annotations

from collections import OrderedDict
from typing import cast

import torch
from torch import Tensor, nn

from .parts import check_images, check_size


def resnet18(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images: one 3x3 convolution, no pooling.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.

    Source: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2 for the stem.
    """
    from torchvision.models import resnet18 as torchvision_resnet18  # slow to import, so only here

    check_images("resnet18", input_shape)
    network = torchvision_resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(input_shape[0], 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network


def resnet(input_shape: tuple[int, ...], classes: int, *, depth: int = 8, width: int = 16) -> nn.Module:
    """Thin ResNets for CIFAR-10: a 3x3 stem, three stages of residual blocks, average pooling and a linear head.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.
        depth: layers with weights, 2 more than a multiple of 6: ResNet-8, ResNet-20 ...
        width: channels of the first stage; the others have 2 and 4 times as many.

    Source: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2, but with a convolution
    where a skip connection changes its width.
    """
    check_size(depth=depth, width=width)
    check_images("resnet", input_shape)
    if depth < 8 or depth % 6 != 2:
        raise ValueError(f"depth={depth}: a resnet has 8, 14, 20 ... layers, 2 more than a multiple of 6")
    stem = nn.Sequential(nn.Conv2d(input_shape[0], width, 3, 1, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU())
    blocks: list[nn.Module] = []
    channels = width
    for stage in range(3):
        for index in range((depth - 2) // 6):
            blocks.append(Block(channels, width << stage, 2 if stage and index == 0 else 1))
            channels = width << stage
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    layers = nn.Sequential(*blocks)
    return nn.Sequential(OrderedDict(stem=stem, layers=layers, pool=pool, head=nn.Linear(channels, classes)))


class Block(nn.Module):
    """Two 3x3 convolutions with BatchNorm, added to their input."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.branch = nn.Sequential(
            nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        same = stride == 1 and inputs == outputs
        convolution = nn.Conv2d(inputs, outputs, 1, stride, bias=False)
        self.skip = nn.Identity() if same else nn.Sequential(convolution, nn.BatchNorm2d(outputs))

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(cast(Tensor, self.skip(x) + self.branch(x)))
