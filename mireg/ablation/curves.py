"""What a run's curve says about its target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def to_target(curve: Iterable[dict[str, Any]], target: float) -> dict[str, Any] | None:
    """The first point of a curve at which validation accuracy has reached the target; None if none has.

    >>> to_target([{"step": 0, "validation_accuracy": 0.1}, {"step": 25, "validation_accuracy": 0.8}], 0.75)["step"]
    25
    """
    return next((point for point in curve if point["step"] > 0 and point["validation_accuracy"] >= target), None)
