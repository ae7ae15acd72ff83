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
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

_PYTHON = (sysconfig.get_path(kind) for kind in ("stdlib", "platstdlib", "purelib", "platlib"))
INSTALLED = [Path(path).resolve() for path in (*_PYTHON, *site.getsitepackages(), str(Path(__file__).parents[1]))]
"""Where code is that a user does not write: the standard library, installed packages and this one."""


def fingerprint(train: Callable[..., Any] | None, names: Iterable[str]) -> dict[str, str]:
    """Digests of the code behind a study: by file, and by function for a loop and what it calls in its own file.

    Files are followed through their imports, as far as they are a user's own. Of the file that defines the loop only
    the functions and classes count that the loop uses: that file also says which arms and seeds to run.

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
    """Add a function or class, what it uses of its own file, and the files that it imports."""
    while isinstance(value, partial):
        value = value.func
    value = inspect.unwrap(value) if inspect.isroutine(value) or isinstance(value, type) else type(value)
    module = inspect.getmodule(value)
    if module is None or (module.__name__ != "__main__" and not _is_own(getattr(module, "__file__", None))):
        return
    if value.__qualname__ in found:
        return
    codes = list(_codes(value))
    try:
        source = inspect.getsource(value).encode()
    except (OSError, TypeError):
        source = b"".join(code.co_code + repr(code.co_names).encode() for code in codes)
    found[value.__qualname__] = _digest(source)
    for name in sorted({name for code in codes for name in _names(code)}):
        used = vars(module).get(name)
        if isinstance(used, ModuleType):
            _add_module(used.__name__, found)
        elif inspect.isroutine(used) or isinstance(used, type):
            if used.__module__ == value.__module__:
                _add_object(used, found)
            else:
                _add_module(used.__module__, found)
        elif isinstance(used, int | float | str):
            found[name] = _digest(repr(used).encode())
        elif used is None:
            _add_module(name, found)


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
