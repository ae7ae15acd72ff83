"""Spiking network: fully connected leaky integrate-and-fire neurons."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from .parts import check_size, initialise


def snn(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 10,
    width: int = 256,
    steps: int = 8,
    decay: float = 0.9,
    init: str = "default",
) -> nn.Module:
    """``depth`` layers of spiking neurons, which see the same input for several time steps, and a linear head.

    The output is the mean of the head's over the time steps.

    Args:
        input_shape: shape of one sample; flattened, and the current into the first layer at every time step.
        classes: outputs of the head.
        depth: layers of neurons.
        width: neurons per layer.
        steps: time steps.
        decay: fraction of the membrane potential that is left after one time step.
        init: initialisation of all layers, see :data:`models.parts.INITS`.

    Source: Neftci et al., Surrogate gradient learning in spiking neural networks, IEEE Signal Processing Magazine 36,
    2019.
    """
    check_size(depth=depth, width=width, steps=steps)
    if not 0 <= decay <= 1:
        raise ValueError(f"decay={decay}: must be from 0 to 1")
    network = SNN(math.prod(input_shape), classes, depth, width, steps, decay)
    initialise(network, init)
    return network


class SNN(nn.Module):
    """Runs its layers once per time step."""

    def __init__(self, features: int, classes: int, depth: int, width: int, steps: int, decay: float) -> None:
        super().__init__()
        self.steps = steps
        self.layers = nn.Sequential(
            *(nn.Sequential(nn.Linear(width if i else features, width), Leaky(decay)) for i in range(depth))
        )
        self.head = nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        currents = x.flatten(1)
        try:
            return torch.stack([self.head(self.layers(currents)) for _ in range(self.steps)]).mean(0)
        finally:
            for module in self.layers.modules():
                if isinstance(module, Leaky):
                    module.membrane = None


class Leaky(nn.Module):
    """Leaky integrate-and-fire neurons, whose membrane potential is kept from one time step to the next.

    A neuron spikes when its potential exceeds 1, and then loses 1.

    Attributes:
        membrane: (n, width), None before the first time step of a pass.
    """

    def __init__(self, decay: float) -> None:
        super().__init__()
        self.decay = decay
        self.membrane: Tensor | None = None

    def forward(self, current: Tensor) -> Tensor:
        membrane = current if self.membrane is None else self.decay * self.membrane + current
        spikes: Tensor = Spike.apply(membrane - 1)
        self.membrane = membrane - spikes.detach()
        return spikes


class Spike(torch.autograd.Function):
    """1 where the argument is positive, else 0, with the derivative of a fast sigmoid.

    Source: Zenke & Ganguli, SuperSpike, Neural Computation 30, 2018.
    """

    SLOPE = 10.0

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return (x > 0).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return gradients[0] / (1 + Spike.SLOPE * x.abs()).square()
