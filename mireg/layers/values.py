"""The tensors inside the inputs and outputs of modules."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass

import torch
from torch import Tensor, nn


def tensors_in(value: object, seen: tuple[int, ...] = ()) -> list[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, in order.

    Args:
        value: what may hold tensors.
        seen: ids of the dataclasses around it, which it may refer to.
    """
    if isinstance(value, Tensor):
        return [value]
    items: Iterable[object] = ()
    if isinstance(value, Mapping):
        items = value.values()
    elif isinstance(value, (tuple, list)):
        items = value
    elif is_dataclass(value) and not isinstance(value, type):
        if id(value) in seen:
            return []
        seen = (*seen, id(value))
        items = [getattr(value, field.name, None) for field in fields(value)]
    found = []
    for item in items:
        found += tensors_in(item, seen)  # not a generator: torch.compile in PyTorch 2.8 cannot trace one
    return found


def floats_in(value: object) -> list[Tensor]:
    """The floating-point tensors inside ``value``; not sparse or nested ones, which no estimate takes."""
    return [
        tensor
        for tensor in tensors_in(value)
        if tensor.is_floating_point() and tensor.layout == torch.strided and not tensor.is_nested
    ]


def read(module: nn.Module, output: object) -> list[Tensor]:
    """The output of a module as the chain uses it: the first floating-point tensor, if there is one.

    Each stacked layer of a recurrent module is represented by its final state, (n, directions * units), regardless of
    dimension order or packing.
    """
    states = _final_states(module, output) if isinstance(module, nn.RNNBase) else []
    return states or floats_in(output)[:1]


def _final_states(module: nn.RNNBase, output: object) -> list[Tensor]:
    """No states if the output is not (output, state), as of a subclass that returns something else."""
    match output:
        case (_, (Tensor() as state, Tensor())) | (_, Tensor() as state):
            if state.ndim < 2 or len(state) != module.num_layers * (1 + module.bidirectional):
                return []
        case _:
            return []
    layers: Tensor = state.unflatten(0, (module.num_layers, -1)).transpose(1, 2).flatten(2)
    return list(layers.unbind())
