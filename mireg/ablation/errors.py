"""Errors that a user can fix, reported in one line."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An invalid request or a missing resource; the message names it and the remedy."""


class Stopped(Exception):  # noqa: N818  # a fulfilled request, not an error
    """The run was asked to stop and has saved its state."""


def cannot_write(error: OSError) -> str:
    """A one-line message for a file that could not be written."""
    what = error.filename or "the curves for TensorBoard"  # whose writer gives no file name
    return (
        f"cannot write {what} ({error.strerror}): make room for it, or give an --out that you may write to; "
        "what is finished is kept, and the same command continues"
    )


def check(name: str, value: object, good: bool, remedy: str) -> None:
    """Raise a UserError, which names the value and the remedy, unless the value is good."""
    if not good:
        raise UserError(f"{name}={value!r}: {remedy}")


def one_line(error: object) -> str:
    """The text of an error without line breaks.

    >>> one_line(ValueError("no such file:\\n  a.txt"))
    'no such file: a.txt'
    """
    return " ".join(str(error).split())


def nearest(name: str, known: Iterable[str]) -> str:
    """Suggest the known name closest to an unknown one; empty if none is close.

    >>> nearest("batchsize", ["steps", "batch-size"])
    ' (did you mean batch-size?)'
    """
    found = difflib.get_close_matches(name, known, n=1)
    return f" (did you mean {found[0]}?)" if found else ""
