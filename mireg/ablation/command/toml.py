"""The settings of a command line as a TOML file, and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from typing import Any

from mireg.ablation.errors import UserError, one_line


def read_words(path: Path, switches: Collection[str], lists: Collection[str]) -> list[str]:
    """What a file sets, as words of a command line; their meaning and their errors are the command line's.

    Args:
        path: of the file; its keys are options without the leading ``--``, with ``-`` or ``_``.
        switches: options without a value, which are there or not.
        lists: options with any number of values.

    Raises:
        UserError: if the file cannot be read, is not TOML, or gives a key twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {one_line(error)[:60]}") from error
    values = {key.replace("_", "-"): value for key, value in table.items()}
    if len(values) < len(table):
        raise UserError(f"{path}: a key is given twice, once with '-' and once with '_'")
    words = []
    for key, value in values.items():
        if key in switches and isinstance(value, bool):
            words += [f"--{key}"] if value else []
        else:
            words += [f"--{key}={_text(item)}" for item in (value if key in lists and type(value) is list else [value])]
    return words


def as_toml(settings: Any, without: frozenset[str]) -> str:
    """A dataclass as text that --config reads, without what is unset.

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
    return "".join(f"{key_of(name)} = {_written(value)}\n" for name, value in values.items() if value not in (None, ()))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def key_of(name: str) -> str:
    """The key of a setting, which is its option without the leading ``--``."""
    return name.replace("_", "-")


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()  # TOML's numbers and booleans
