"""Layer-sequential unit-variance initialisation, which looks at a batch of inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.errors import UserError

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def lsuv(network: nn.Module, inputs: Tensor) -> None:
    """Give every linear and convolutional layer orthonormal weights, scaled to unit variance of its output.

    Biases become 0, so that an output scales with its weight and one pass from the input to the output does what the
    published loop does in several. Random numbers are drawn from a copy of the stream, and buffers such as BatchNorm's
    statistics are left as they were.

    Args:
        network: changed in place.
        inputs: a batch of training samples.

    Raises:
        UserError: if the network has weights outside such layers, which the method says nothing about.

    Source: Mishkin & Matas, All you need is a good init, ICLR 2016.
    """
    for name, module in network.named_modules():
        for key, parameter in module.named_parameters(prefix=name, recurse=False):
            if parameter.ndim >= 2 and not isinstance(module, LAYERS):
                raise UserError(
                    f"arm 'lsuv' does not apply: {key} belongs to a {type(module).__name__}, and LSUV knows linear and "
                    "convolutional layers alone; leave the arm out"
                )
    layers = [module for module in network.modules() if isinstance(module, LAYERS)]
    buffers = [(buffer, buffer.clone()) for buffer in network.buffers()]
    done: set[nn.Module] = set()
    hooks = [layer.register_forward_hook(partial(_scale, done)) for layer in layers]
    try:
        with torch.random.fork_rng():
            for layer in layers:
                nn.init.orthogonal_(layer.weight)
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)
            network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, before in buffers:
            buffer.copy_(before)


def _scale(done: set[nn.Module], layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Scale a layer, the first time that it is called, and what it has just put out."""
    if layer in done:
        return output
    done.add(layer)
    deviation = output.std()
    if not (torch.isfinite(deviation) and deviation > 0):  # nothing comes through to this layer
        return output
    layer.get_parameter("weight").div_(deviation)
    return output / deviation
