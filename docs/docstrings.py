"""Shows docstrings as they are meant: their doctests as code, and references by name."""

from __future__ import annotations

import re
from typing import Any

import griffe


class Tidy(griffe.Extension):
    """Puts what follows the first prompt under a heading, and takes the roles off references."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        if obj.docstring:
            obj.docstring.value = tidy(obj.docstring.value)


def tidy(docstring: str) -> str:
    """The docstring with an examples section."""
    text, prompt, examples = re.sub(r":\w+:`([^`]+)`", r"`\1`", docstring).partition("\n>>> ")
    if not prompt:
        return text
    lines = "".join(f"    {line}\n" if line else "\n" for line in (">>> " + examples).splitlines())
    return f"{text}\nExamples:\n{lines}"
