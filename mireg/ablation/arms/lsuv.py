"""Layer-sequential unit-variance initialisation, from a batch of inputs."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.errors import UserError
from mireg.ablation.tasks import arguments

LAYERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


@torch.no_grad()
def lsuv(network: nn.Module, inputs: Any) -> None:
    """Give every linear and convolutional layer orthonormal weights, scaled to unit output variance.

    Biases become 0, so that an output scales with its weight and a single pass through the network replaces the
    published iteration. The global random state does not change, nor do buffers such as BatchNorm's statistics.

    Args:
        network: the network, changed in place.
        inputs: a batch of training samples.

    Raises:
        UserError: if the network has weights in other layers, which the method does not cover.

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
            network(*arguments(inputs))
    finally:
        for hook in hooks:
            hook.remove()
        for buffer, before in buffers:
            buffer.copy_(before)


def _scale(done: set[nn.Module], layer: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
    """Scale a layer and its output, the first time that it is called."""
    if layer in done:
        return output
    done.add(layer)
    deviation = output.std()
    if not (torch.isfinite(deviation) and deviation > 0):  # no signal reaches this layer
        return output
    layer.get_parameter("weight").div_(deviation)
    return output / deviation
