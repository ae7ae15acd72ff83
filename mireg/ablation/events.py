"""What a study says and asks while it runs: its events, and whether to stop.

Every event is a dictionary of plain values, and ``event`` is its type: ``study`` (number of ``runs``, and number
``finished`` before work starts), ``start`` and ``step`` of a ``run`` (``step`` of ``steps``, null if a custom loop does
not give it; a step has the new point of the curve), ``finish`` of a run (with its ``failure``, or null) and ``note``
(``text`` that a user should read).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EventHandler = Callable[[dict[str, Any]], None]
"""A function that handles an event."""

ShouldStop = Callable[[], bool]
"""A function that says whether the user has asked to stop."""


def note(text: str, run: str | None = None) -> dict[str, Any]:
    """An event that tells the user something, about a run if one is named."""
    return {"event": "note", **({"run": run} if run else {}), "text": text}
