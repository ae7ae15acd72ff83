"""Deep autoencoder of dense layers."""

from __future__ import annotations

import math
from collections import OrderedDict
from itertools import pairwise

from torch import nn

from .parts import activation as make_activation
from .parts import check_size, initialise

OUTPUTS: dict[str, type[nn.Module]] = {"linear": nn.Identity, "sigmoid": nn.Sigmoid}


def autoencoder(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    widths: str = "512-256-128-32",
    activation: str = "tanh",
    output: str = "linear",
    init: str = "default",
) -> nn.Module:
    """Dense layers down to a code and back up: (n, ...) samples to reconstructions of the same shape.

    Args:
        input_shape: shape of one sample.
        classes: not used; the output has the shape of the input.
        widths: units of the encoder's layers, the last of which is the code; the decoder has them in reverse.
        activation: of all layers except the output, see :data:`models.parts.ACTIVATIONS`.
        output: activation of the output: ``"linear"``, or ``"sigmoid"`` for samples from 0 to 1.
        init: initialisation of all layers, see :data:`models.parts.INITS`.

    Source: Hinton & Salakhutdinov, Reducing the dimensionality of data with neural networks, Science 313, 2006.
    """
    try:
        down = [int(width) for width in widths.split("-")]
    except ValueError:
        raise ValueError(f"widths={widths!r}: give whole numbers joined by hyphens, such as 512-128-32") from None
    if output not in OUTPUTS:
        raise ValueError(f"unknown output {output!r}: choose from {', '.join(OUTPUTS)}")
    check_size(**{f"width {index}": width for index, width in enumerate(down, 1)})
    pixels = math.prod(input_shape)
    sizes = [pixels, *down, *reversed(down[:-1])]
    body = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), make_activation(activation)) for a, b in pairwise(sizes)))
    head = nn.Sequential(nn.Linear(sizes[-1], pixels), OUTPUTS[output](), nn.Unflatten(1, input_shape))
    network = nn.Sequential(OrderedDict(flatten=nn.Flatten(), layers=body, head=head))
    initialise(network, init)
    return network
