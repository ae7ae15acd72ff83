"""Select modules by name, glob, type or predicate."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Sequence

from torch import nn

INPUT = "input"
"""Name of the network's input in a chain of layers."""

LayerSpec = str | type[nn.Module] | Callable[[str, nn.Module], bool] | Sequence["LayerSpec"]
"""``"auto"``, a module name or glob, a module type, a predicate of (name, module), or several."""


def select(module: nn.Module, layers: LayerSpec) -> list[str]:
    specs = [layers] if isinstance(layers, str) or not isinstance(layers, list | tuple) else list(layers)
    names = [INPUT] if INPUT in specs and INPUT not in dict(module.named_children()) else []
    rest = [spec for spec in specs if spec != INPUT or not names]
    names += match(module, rest) if rest else []
    if len(names) < 2:
        raise ValueError(
            f"layers={layers!r} selects {len(names)} layer ({', '.join(names)}): MI between successive layers needs "
            "at least 2; 'input' may be one of them"
        )
    return names


def match(module: nn.Module, spec: LayerSpec) -> list[str]:
    """Names of the submodules that a specification other than ``"auto"`` selects.

    Raises:
        ValueError: if a pattern, type or predicate selects nothing.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        chosen = {name for item in spec for name in match(module, item)}
        return [name for name, _ in module.named_modules() if name in chosen]
    have = {name: child for name, child in module.named_modules() if name and has_forward(child)}
    names = [name for name, child in have.items() if _selects(spec, name, child)]
    if not names:
        shown = ", ".join(list(have)[:12]) + (", ..." if len(have) > 12 else "")
        raise ValueError(f"layers={spec!r} matches no module of {type(module).__name__}: it has {shown or 'none'}")
    return names


def has_forward(module: nn.Module) -> bool:
    """Whether the module defines a forward method; a ModuleList does not."""
    return type(module).forward is not nn.Module.forward


def _selects(spec: LayerSpec, name: str, module: nn.Module) -> bool:
    if isinstance(spec, str):
        return fnmatch.fnmatchcase(name, spec)
    if isinstance(spec, type):
        return isinstance(module, spec)
    if callable(spec) and not isinstance(spec, nn.Module):
        return bool(spec(name, module))
    raise TypeError(
        f"layers={spec!r}: give 'auto', a module name or glob, a module type, a predicate, or a list of them"
    )
