"""The settings of a command line as a TOML file, and back."""

from __future__ import annotations

import json
import tomllib
import types
import typing
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, TypeVar

from mireg.ablation.errors import UserError, nearest

T = TypeVar("T")

WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path, as text"}


def read_toml(path: Path, kind: type[T], without: frozenset[str]) -> T:
    """Read a dataclass whose fields all have defaults.

    Args:
        path: of the file; its keys are the names of the fields, with ``-`` or ``_``.
        kind: the dataclass.
        without: fields that a file cannot set.

    Raises:
        UserError: if the file cannot be read, a key is unknown or a value is of another type.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path} ({error.strerror})") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {_line(error)}") from error
    hints = typing.get_type_hints(kind)
    known = {_key(field.name): hints[field.name] for field in fields(kind) if field.name not in without}  # type: ignore[arg-type]
    chosen: dict[str, Any] = {}
    for written, value in table.items():
        key = written.replace("_", "-")
        if key not in known:
            raise UserError(f"{path}: unknown key {_line(written)!r}{nearest(key, known)}")
        chosen[key.replace("-", "_")] = _typed(f"{path}: {key}", value, known[key])
    if len(chosen) < len(table):
        raise UserError(f"{path}: a key is given twice, once with '-' and once with '_'")
    return kind(**chosen)


def as_toml(settings: Any, without: frozenset[str]) -> str:
    """A dataclass as text that :func:`read_toml` reads, without what is unset.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Settings:
    ...     batch_size: int = 64
    ...     arms: tuple[str, ...] = ("none", "mi")
    >>> print(as_toml(Settings(), frozenset()), end="")
    batch-size = 64
    arms = ["none", "mi"]
    """
    values = {f.name: getattr(settings, f.name) for f in fields(settings) if f.name not in without}
    return "".join(f"{_key(name)} = {_written(value)}\n" for name, value in values.items() if value not in (None, ()))


def _typed(where: str, value: Any, hint: Any) -> Any:
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if typing.get_origin(hint) is Literal:
        choices = typing.get_args(hint)
        if value not in choices:
            raise UserError(f"{where} is {_line(value)!r}: choose from {', '.join(choices)}")
        return value
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where} is {_line(value)!r}: must be a list of text")
        return tuple(_typed(where, item, str) for item in value)
    if type(value) not in {Path: (str,), float: (int, float)}.get(hint, (hint,)):
        raise UserError(f"{where} is {_line(value)!r}: must be {WORDS[hint]}")
    if isinstance(value, str) and "\0" in value:
        raise UserError(f"{where} is {_line(value)!r}: must not hold a zero character")
    try:
        return hint(value)
    except OverflowError:
        raise UserError(f"{where} is too large a number") from None


def _line(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}..."


def _key(name: str) -> str:
    return name.replace("_", "-")


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()  # TOML's numbers and booleans
