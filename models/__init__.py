"""Networks for ablations, built by name from options given as text or values."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from torch import nn

from .autoencoder import autoencoder
from .cnn import cnn
from .gcn import gcn
from .gpt import gpt
from .lenet import lenet
from .mlp import mlp
from .resnet import resnet, resnet18
from .rnn import rnn
from .snn import snn
from .transformer import transformer
from .vgg import vgg
from .vit import vit

REGISTRY: dict[str, Callable[..., nn.Module]] = {
    "mlp": mlp,
    "cnn": cnn,
    "vgg": vgg,
    "resnet": resnet,
    "resnet18": resnet18,
    "vit": vit,
    "rnn": rnn,
    "gpt": gpt,
    "lenet": lenet,
    "transformer": transformer,
    "snn": snn,
    "autoencoder": autoencoder,
    "gcn": gcn,
}


def options(name: str) -> dict[str, Any]:
    """The options of a model and their defaults.

    Raises:
        ValueError: if there is no model with that name.
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown model {name!r}: choose from {', '.join(REGISTRY)}")
    parameters = inspect.signature(REGISTRY[name]).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def build(name: str, chosen: Mapping[str, Any], input_shape: tuple[Any, ...], classes: int) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: one of ``REGISTRY``.
        chosen: options that differ from the defaults; text is converted to the type of the default.
        input_shape: shape of one sample, such as (channels, height, width).
        classes: number of outputs.

    Raises:
        ValueError: on an unknown model or option, or a value out of range.
    """
    known = options(name)
    typed: dict[str, Any] = {}
    for key, value in chosen.items():
        if key not in known:
            raise ValueError(f"model {name!r} has no option {key!r}: it has {', '.join(known)}")
        typed[key] = _read(name, key, value, known[key])
    return REGISTRY[name](input_shape, classes, **typed)


def _read(model: str, key: str, value: Any, default: Any) -> Any:
    if not isinstance(value, str) or isinstance(default, str):
        return value
    try:
        if isinstance(default, bool):
            return {"true": True, "false": False, "1": True, "0": False}[value.lower()]
        return type(default)(value)
    except (KeyError, ValueError):
        raise ValueError(f"model {model!r}: {key}={value!r} cannot be read as {type(default).__name__}") from None
