"""LeNet-5, the first convolutional network of most courses."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .parts import activation as make_activation
from .parts import check_images, check_size, initialise

SMALL = 16
"""Side of an image in pixels below which the second convolution is 3x3 and padded: a 5x5 one would leave nothing."""


def lenet(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    activation: str = "sigmoid",
    batchnorm: bool = False,
    init: str = "default",
) -> nn.Module:
    """Two convolutions with average pooling, two dense layers of 120 and 84 units, and a linear head.

    The first convolution, of 6 channels, is 5x5 and padded; the second, of 16, is 5x5 without padding, or 3x3 and
    padded on images of fewer than 16 pixels per side.

    Args:
        input_shape: (channels, height, width) of one sample, at least 4 pixels per side.
        classes: outputs of the head.
        activation: see :data:`models.parts.ACTIVATIONS`.
        batchnorm: normalise before each activation.
        init: initialisation of all layers, see :data:`models.parts.INITS`.

    Source: LeCun et al., Gradient-based learning applied to document recognition, Proceedings of the IEEE 86, 1998,
    with a linear head, fully connected maps and pooling without weights, as in today's textbooks.
    """
    check_images("lenet", input_shape)
    channels, *sides = input_shape
    check_size(**{"height // 4": sides[0] // 4, "width // 4": sides[1] // 4})
    kernel, padding = (3, 1) if min(sides) < SMALL else (5, 0)
    flat = 16
    for side in sides:
        flat *= (side // 2 + 2 * padding - kernel + 1) // 2

    def layer(weights: nn.Module, norm: nn.Module) -> nn.Module:
        return nn.Sequential(weights, norm if batchnorm else nn.Identity(), make_activation(activation))

    body = nn.Sequential(
        layer(nn.Conv2d(channels, 6, 5, padding=2), nn.BatchNorm2d(6)),
        nn.AvgPool2d(2),
        layer(nn.Conv2d(6, 16, kernel, padding=padding), nn.BatchNorm2d(16)),
        nn.AvgPool2d(2),
        nn.Flatten(),
        layer(nn.Linear(flat, 120), nn.BatchNorm1d(120)),
        layer(nn.Linear(120, 84), nn.BatchNorm1d(84)),
    )
    network = nn.Sequential(OrderedDict(layers=body, head=nn.Linear(84, classes)))
    initialise(network, init)
    return network
