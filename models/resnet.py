"""ResNet-18 for small images."""

from __future__ import annotations

from torch import nn


def resnet18(input_shape: tuple[int, ...], classes: int) -> nn.Module:
    """torchvision's ResNet-18 with the stem for small images: one 3x3 convolution, no pooling.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.

    Source: He et al., Deep residual learning for image recognition, CVPR 2016, section 4.2 for the stem.
    """
    if len(input_shape) != 3:
        raise ValueError(f"a resnet18 needs samples of shape (channels, height, width), not {input_shape}")
    from torchvision.models import resnet18 as torchvision_resnet18  # slow to import: only where it is used

    network = torchvision_resnet18(num_classes=classes)
    network.conv1 = nn.Conv2d(input_shape[0], 64, 3, 1, 1, bias=False)
    network.maxpool = nn.Identity()
    return network
