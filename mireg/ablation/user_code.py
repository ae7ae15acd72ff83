"""Import a user's own code, only if the command line or a study file names it."""

from __future__ import annotations

import functools
import importlib
import sys
import traceback
from pathlib import Path
from typing import Any

from mireg.ablation.errors import UserError, one_line

HERE = Path(__file__).parent
"""Where code is that is none of a user's."""


def import_name(name: str) -> Any:
    """Import the object ``package.module:name``; the current folder is searched first, as with ``python -m``.

    Raises:
        UserError: if there is no such module or no such name in it, or its code fails.
    """
    where, _, attribute = name.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        module = importlib.import_module(where)
    except (Exception, SystemExit) as error:
        reason, missing = blame(error), error.name if isinstance(error, ModuleNotFoundError) else None
        if missing and f"{where}.".startswith(f"{missing}."):
            reason = f"no module {missing!r} in the current folder {here} or among the installed packages"
        raise UserError(f"{name}: {reason}") from error
    try:
        return functools.reduce(getattr, attribute.split("."), module)
    except AttributeError:
        path = getattr(module, "__file__", None)
        raise UserError(f"{name}: {path or where} has no {attribute!r}") from None


def blame(error: BaseException) -> str:
    """Describe an error in a user's code in one line: its type, message and place.

    >>> try:
    ...     exec(compile("1 / 0", "net.py", "exec"))
    ... except ZeroDivisionError as error:
    ...     blame(error)
    'ZeroDivisionError: division by zero (net.py, line 1)'
    """
    if isinstance(error, SyntaxError):
        return f"{type(error).__name__}: {error.msg} ({error.filename}, line {error.lineno})"
    frames = [f for f in traceback.extract_tb(error.__traceback__) if not f.filename.startswith("<")]
    text = one_line(error)
    text = text if len(text) <= 300 else f"{text[:297]}..."
    if isinstance(error, UserError):  # of this package, about what the user's code called it with
        frames = [f for f in frames if not Path(f.filename).is_relative_to(HERE)] or frames
    else:
        text = f"{type(error).__name__}: {text}"
    return f"{text} ({frames[-1].filename}, line {frames[-1].lineno})"
