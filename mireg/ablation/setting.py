"""Settings that a user can give: each is defined once, as a field of the dataclass that it belongs to."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import MISSING, Field, field, fields
from typing import Any

from mireg.ablation.errors import check


def setting(
    about: str,
    default: Any = MISSING,
    *,
    choices: tuple[str, ...] = (),
    least: float | None = None,
    name: str = "",
    other: str = "",
) -> Any:
    """A field that is also an option of the command line and a key of a file with settings.

    Args:
        about: a sentence for ``--help``.
        default: the default; without one, the field is required.
        choices: the values to choose from; empty for any.
        least: the smallest number.
        name: name of the option, if it is not that of the field.
        other: another option that does the same.
    """
    known = {"help": about, "choices": choices, "least": least, "name": name, "other": other}
    return field(default=default, metadata=known)


def settings_of(kind: Any) -> dict[str, Field[Any]]:
    """The settings among the fields of a dataclass, by name of the option.

    >>> from dataclasses import dataclass
    >>> @dataclass
    ... class Cell:
    ...     name: str
    ...     target: float = setting("Value to reach.", 0.8, name="goal")
    >>> list(settings_of(Cell))
    ['goal']
    """
    return {f.metadata["name"] or f.name: f for f in fields(kind) if "help" in f.metadata}


def check_settings(owner: Any) -> None:
    """Raise a UserError unless the settings of a dataclass are among their choices and no less than their least."""
    for name, of in settings_of(owner).items():
        value, choices, least = getattr(owner, of.name), of.metadata["choices"], of.metadata["least"]
        if choices:
            check(name, value, value in choices, f"choose from {', '.join(choices)}")
        if least is not None and value is not None:
            finite = math.isfinite(value)
            remedy = f"give at least {least}{'' if finite else ', a finite number'}"
            check(name, value, finite and value >= least, remedy)


def changes_of(kind: Any, given: Mapping[str, Any]) -> dict[str, Any]:
    """What is given of a dataclass's settings, by name of the field."""
    return {f.name: given[name] for name, f in settings_of(kind).items() if name in given}


def flag(name: str) -> str:
    """The option of that name, whose key in a file is the same without the leading ``--``.

    >>> flag("batch_size")
    '--batch-size'
    """
    return f"--{name.replace('_', '-')}"
