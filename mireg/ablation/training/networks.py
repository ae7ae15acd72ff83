"""External networks: a user's own, timm's and torchvision's."""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from torch import nn

from mireg.ablation.errors import UserError, nearest
from mireg.ablation.user_code import import_name

if TYPE_CHECKING:
    from mireg.ablation.data import Dataset
    from mireg.ablation.study.config import Cell

FORMS = {
    "package.module:factory": "your own function or class, see docs/own_network.md",
    "timm:NAME": "a model of timm",
    "torchvision:NAME": "a model of torchvision",
}
"""Accepted names in addition to the networks that the caller knows."""

GIVEN = ("input_shape", "outputs")
"""Parameters of a factory that are filled in automatically."""


def is_foreign(name: str) -> bool:
    """Whether a name has one of these forms."""
    kind, colon, rest = name.partition(":")
    return bool(kind and colon and rest)


def build_cell(cell: Cell, dataset: Dataset, package: str) -> nn.Module:
    """Build the network of a cell: an external one, or one that a package of networks knows."""
    make: Callable[..., nn.Module] = build if is_foreign(cell.model) else importlib.import_module(package).build
    return make(cell.model, cell.model_options, dataset.input_shape, dataset.outputs)


def build(name: str, options: Mapping[str, Any], input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: ``"package.module:factory"``, ``"timm:NAME"`` or ``"torchvision:NAME"``.
        options: options of the factory; text that is a Python literal is converted.
        input_shape: shape of one sample; timm receives only the number of channels.
        outputs: number of outputs of the network.

    Raises:
        UserError: if there is no such network, or an option is missing or unknown. A factory's own errors stay as is.
    """
    kind, _, rest = name.partition(":")
    values = {key: _value(value) for key, value in options.items()}
    if kind == "timm":
        return _timm(name, rest, values, input_shape, outputs)
    if kind == "torchvision":
        return _torchvision(name, rest, values, outputs)
    factory = import_name(name)
    if not callable(factory):
        raise UserError(f"{name}: {type(factory).__name__} is not a function or class")
    network = _call(name, factory, values, {"input_shape": input_shape, "outputs": outputs})
    if not isinstance(network, nn.Module):
        raise UserError(f"{name} returned {type(network).__name__} instead of an nn.Module")
    return network


def _call(name: str, factory: Callable[..., Any], values: dict[str, Any], given: dict[str, Any]) -> Any:
    """Call a factory with the parameters that it has."""
    signature = inspect.signature(factory)
    bound, rest = signature.bind_partial(), dict(values)
    for key, parameter in signature.parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            bound.arguments[key] = rest
            rest = {}
        elif parameter.kind is parameter.VAR_POSITIONAL:
            continue
        elif key in rest or key in given:
            bound.arguments[key] = rest.pop(key, given.get(key))
        elif parameter.default is parameter.empty:
            raise UserError(
                f"{name}: parameter {key!r} has no value: name it {' or '.join(GIVEN)}, give it a default, or "
                f"--model-options {key}=..."
            )
    for key in rest:
        known = [k for k in signature.parameters if k not in GIVEN]
        raise UserError(f"{name} has no option {key!r}{nearest(key, known)}: it has {', '.join(known) or 'none'}")
    return factory(*bound.args, **bound.kwargs)


def _timm(name: str, model: str, values: dict[str, Any], input_shape: tuple[int, ...], outputs: int) -> nn.Module:
    try:
        import timm
    except ImportError:
        raise UserError(f"--model {name} needs timm: pip install timm") from None
    if not timm.is_model(model):
        hint = nearest(model, timm.list_models())
        raise UserError(f"timm has no model {model!r}{hint}: timm.list_models() names all")
    shape = {"num_classes": outputs, "in_chans": input_shape[0]}
    network: nn.Module = timm.create_model(model, pretrained=False, **shape | values)
    return network


def _torchvision(name: str, model: str, values: dict[str, Any], outputs: int) -> nn.Module:
    from torchvision.models import get_model, list_models

    if model not in list_models():
        hint = nearest(model, list_models())
        raise UserError(f"torchvision has no model {model!r}{hint}: torchvision.models.list_models() names all")
    network: nn.Module = get_model(model, weights=None, **{"num_classes": outputs, **values})
    return network


def _value(value: Any) -> Any:
    """Convert text to the value that it represents.

    >>> [_value(text) for text in ("4", "0.5", "true", "gelu", "(1, 2)")]
    [4, 0.5, True, 'gelu', (1, 2)]
    """
    if not isinstance(value, str):
        return value
    if value.lower() in ("true", "false"):
        return value.lower() == "true"
    try:
        return ast.literal_eval(value)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return value
