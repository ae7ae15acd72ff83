"""The tensors inside what modules take and put out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn


def tensors_in(value: object) -> Iterable[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def first_float(value: object) -> Tensor | None:
    """The first floating-point tensor inside ``value``, the one that stands for it in the chain."""
    return next((t for t in tensors_in(value) if t.is_floating_point()), None)


def read(name: str, module: nn.Module, output: object) -> dict[str, Tensor]:
    """What a module puts out, as the chain has it: the first float tensor.

    A recurrent module stands for each of its stacked layers, ``name[0]``, ``name[1]``, ..., by that
    layer's final state, (n, directions * units), whatever the order of dimensions or the packing.
    """
    if isinstance(module, nn.RNNBase):
        layers = _final_states(module, output)
        return {f"{name}[{index}]" if len(layers) > 1 else name: layer for index, layer in enumerate(layers)}
    tensor = first_float(output)
    return {} if tensor is None else {name: tensor}


def _final_states(module: nn.RNNBase, output: Any) -> Sequence[Tensor]:
    state = output[1][0] if isinstance(output[1], tuple) else output[1]
    layers: Tensor = state.unflatten(0, (module.num_layers, -1)).transpose(1, 2).flatten(2)
    return layers.unbind()
