"""The tensors inside the inputs and outputs of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def tensors_in(value: object) -> list[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        return [value]
    items: Iterable[object] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    elif is_dataclass(value) and not isinstance(value, type):
        items = [getattr(value, field.name) for field in fields(value)]
    found = []
    for item in items:
        found += tensors_in(item)  # not a generator: torch.compile in PyTorch 2.8 cannot trace one
    return found


def floats_in(value: object) -> list[Tensor]:
    """The floating-point tensors inside ``value``."""
    return [tensor for tensor in tensors_in(value) if tensor.is_floating_point()]


def read(module: nn.Module, output: object) -> list[Tensor]:
    """The output of a module as the chain uses it: the first floating-point tensor, if there is one.

    Each stacked layer of a recurrent module is represented by its final state, (n, directions * units), regardless of
    dimension order or packing.
    """
    return _final_states(module, output) if isinstance(module, nn.RNNBase) else floats_in(output)[:1]


def _final_states(module: nn.RNNBase, output: Any) -> list[Tensor]:
    state = output[1][0] if isinstance(output[1], tuple) else output[1]
    layers: Tensor = state.unflatten(0, (module.num_layers, -1)).transpose(1, 2).flatten(2)
    return list(layers.unbind())
