"""What a study tells while it runs.

Every event is a dictionary of plain values, and ``event`` says which it is: ``study`` (``runs``, and
how many are ``finished`` before work starts), ``start`` and ``step`` of a ``run`` (``step`` of
``steps``; a step has the new point of the curve), ``finish`` of a run (with its ``failure``, or null)
and ``note`` (``text`` that a user should read).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

EventHandler = Callable[[dict[str, Any]], None]
"""Takes an event."""
