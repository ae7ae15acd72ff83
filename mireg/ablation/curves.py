"""What a run's curve says about its target."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from mireg.ablation.metric import Metric

ACCURACY = Metric()


def to_target(
    curve: Iterable[dict[str, Any]], target: float | None, metric: Metric = ACCURACY
) -> dict[str, Any] | None:
    """The first point of a curve after training began that is as good as the target; None if none is.

    >>> to_target([{"step": 0, "validation_accuracy": 0.1}, {"step": 25, "validation_accuracy": 0.8}], 0.75)["step"]
    25
    """
    if target is None:
        return None
    points = (point for point in curve if point["step"] > 0)
    return next((point for point in points if metric.reached(point[metric.validation], target)), None)
