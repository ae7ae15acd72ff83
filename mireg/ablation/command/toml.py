"""The settings of a command line as a TOML file, and back."""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mireg.ablation.errors import UserError, one_line
from mireg.ablation.setting import flag


def read_toml(path: Path) -> dict[str, Any]:
    """What a file sets, by name of the option: its keys may be written with ``-`` or ``_``.

    Raises:
        UserError: if the file cannot be read, is not TOML, or gives a key twice.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"cannot read --config {path} ({error.strerror})") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not TOML: {one_line(error)[:60]}") from error
    values = {key.replace("-", "_"): value for key, value in table.items()}
    if len(values) < len(table):
        raise UserError(f"{path}: a key is given twice, once with '-' and once with '_'")
    return values


def as_toml(values: Mapping[str, Any]) -> str:
    """Settings by name of the option as text that --config reads, without what is unset.

    >>> print(as_toml({"batch_size": 64, "arms": ("none", "mi"), "task": None}), end="")
    batch-size = 64
    arms = ["none", "mi"]
    """
    known = {flag(name)[2:]: value for name, value in values.items() if value not in (None, ())}
    return "".join(f"{key} = {_written(value)}\n" for key, value in known.items())


def _written(value: Any) -> str:
    if isinstance(value, tuple):
        return f"[{', '.join(_written(item) for item in value)}]"
    if isinstance(value, str | Path):
        return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007f")
    return repr(value).lower()  # TOML's numbers and booleans
