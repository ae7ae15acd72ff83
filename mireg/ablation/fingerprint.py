"""Fingerprints of a user's code, by which results are known to belong to the code that ran."""

from __future__ import annotations

import ast
import contextlib
import dis
import hashlib
import importlib.util
import inspect
import site
import sysconfig
import textwrap
from argparse import Namespace
from collections.abc import Callable, Iterable, Iterator
from dataclasses import is_dataclass
from functools import partial
from pathlib import Path
from types import CellType, CodeType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np

_PYTHON = (sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED = [Path(path).resolve() for path in (*_PYTHON, *site.getsitepackages(), str(Path(__file__).parents[1]))]
"""Where code is that a user does not write: the standard library, installed packages and this one."""


MISSING = object()

CHANGING = ("append", "extend", "insert", "add", "update", "setdefault", "remove", "discard", "pop", "popitem", "clear")
"""Methods that change a container."""


def fingerprint(train: Callable[..., Any] | None, names: Iterable[str]) -> dict[str, str]:
    """Digests of the code behind a study: by file, and by function for a loop and what it calls in its own file.

    Files are followed through their imports, as far as they are a user's own. Of the file that defines the loop only
    the functions, classes and values count that the loop uses: that file also says which arms and seeds to run. Of
    what a loop was given (arguments, enclosing variables, attributes), plain values count, of others the type.

    Args:
        train: the loop of a user; None for the built-in one.
        names: objects of the user, ``package.module:name``; names in another form are ignored.
    """
    found: dict[str, str] = {}
    for name in names:
        kind, colon, rest = name.partition(":")
        if colon and rest and kind not in ("timm", "torchvision", "folder", "text"):
            _add_module(kind, found)
    if train is not None:
        _add_object(train, found)
    return found


def _add_object(value: Any, found: dict[str, str]) -> None:
    """Add a function, class or object, what it was given, what it uses of its own file, and the files it imports."""
    given: dict[str, Any] = {}
    while isinstance(value, partial):
        given |= value.keywords | ({"arguments": value.args} if value.args else {})
        value = value.func
    value = value.__self__ if inspect.ismethod(value) else inspect.unwrap(value)
    if not inspect.isroutine(value) and not isinstance(value, type):
        given |= getattr(value, "__dict__", {})
        value = type(value)
    module, name = inspect.getmodule(value), value.__qualname__
    if name in found:
        return
    used: dict[str, Any] = {}
    if module is not None and (module.__name__ == "__main__" or _is_own(getattr(module, "__file__", None))):
        codes = list(_codes(value))
        try:
            source = inspect.getsource(value).encode()
        except (OSError, TypeError):
            source = b"".join(code.co_code + repr(code.co_names).encode() for code in codes)
        found[name] = _digest(source)
        collected = _collected(source)
        if inspect.isfunction(value):
            cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=True)
            given |= {key: cell.cell_contents for key, cell in cells if cell != CellType() and key not in collected}
            given |= {"defaults": value.__defaults__} if value.__defaults__ else {}
            given |= value.__kwdefaults__ or {}
        used = {key: vars(module).get(key, MISSING) for code in codes for key in _names(code) - collected}
    used |= {f"{key} of {name}": each for key, each in given.items()}
    for key, each in sorted(used.items()):
        if each is MISSING:
            _add_module(key, found)
        elif isinstance(each, ModuleType):
            _add_module(each.__name__, found)
        elif inspect.isroutine(each) or isinstance(each, type):
            if each.__module__ == value.__module__:
                _add_object(each, found)
            else:
                _add_module(str(each.__module__), found)
        else:
            found[key] = _digest(_plain(each).encode())


def _plain(value: Any) -> str:
    """The text of numbers, texts and containers of these, in every process the same; of all else only the type."""
    kind = type(value).__qualname__
    if isinstance(value, SimpleNamespace | Namespace) or is_dataclass(value):
        value = getattr(value, "__dict__", {})
    if isinstance(value, dict):
        return f"{kind}({[(_plain(key), _plain(each)) for key, each in value.items()]})"
    if isinstance(value, set | frozenset):
        return f"{kind}({sorted(map(_plain, value))})"
    if isinstance(value, list | tuple):
        return f"{kind}({list(map(_plain, value))})"
    return repr(value) if isinstance(value, int | float | complex | str | bytes | Path | np.generic | None) else kind


def _collected(source: bytes) -> set[str]:
    """Names of containers that code changes: what it collects is no setting."""
    try:
        nodes = ast.walk(ast.parse(textwrap.dedent(source.decode())))
    except (SyntaxError, ValueError):  # a part of an expression, as of a lambda; bytecode
        return set()
    return {
        node.value.id
        for node in nodes
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.value, ast.Name)
        if not isinstance(node.ctx, ast.Load) or (isinstance(node, ast.Attribute) and node.attr in CHANGING)
    }


def _add_module(name: str, found: dict[str, str]) -> None:
    """Add a user's file, and those that it imports."""
    top = name.partition(".")[0]
    try:
        spec = importlib.util.find_spec(top)
        if spec is not None and name != top and any(map(_is_own, spec.submodule_search_locations or ())):
            spec = importlib.util.find_spec(name)
    except Exception:  # looking for a part of a package imports the package, which may do anything
        return
    if spec is None or name in found or not str(spec.origin).endswith(".py") or not _is_own(spec.origin):
        return
    text = Path(str(spec.origin)).read_bytes()
    found[name] = _digest(text)
    package = name if spec.submodule_search_locations else name.rpartition(".")[0]
    for imported in _imports(text, package):
        _add_module(imported, found)


def _imports(text: bytes, package: str) -> Iterator[str]:
    """Names of the modules that a file may import."""
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            yield base
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _is_own(place: str | None) -> bool:
    if place is None or {"site-packages", "dist-packages"} & set(Path(place).resolve().parts):  # of any environment
        return False
    return not any(Path(place).resolve().is_relative_to(folder) for folder in INSTALLED)


def _codes(value: Any) -> Iterator[CodeType]:
    """The code of a function, or of all methods of a class, with what is defined inside."""
    waiting = [value] if not isinstance(value, type) else list(vars(value).values())
    codes = [item.__code__ for item in waiting if hasattr(item, "__code__")]
    while codes:
        code = codes.pop()
        yield code
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]


def _names(code: CodeType) -> set[str]:
    """Global names that code uses, and modules that it imports."""
    wanted = ("LOAD_GLOBAL", "LOAD_NAME", "IMPORT_NAME")
    return {str(step.argval) for step in dis.get_instructions(code) if step.opname in wanted}


def _digest(text: bytes) -> str:
    """The digest of code, whatever its comments and layout."""
    with contextlib.suppress(SyntaxError, ValueError):  # a part of an expression, as of a lambda; bytecode
        text = ast.unparse(ast.parse(textwrap.dedent(text.decode()))).encode()
    return hashlib.sha256(text).hexdigest()
