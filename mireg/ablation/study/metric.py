"""The compared metric: a number measured on validation data, and its direction."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from mireg.ablation.errors import UserError, check

MODES = {"accuracy": "max", "loss": "min"}
"""Directions of the metrics that the built-in trainer measures."""


@dataclass(frozen=True)
class Metric:
    """A metric, its better direction (``"max"`` or ``"min"``), its keys in results and its format."""

    name: str = "accuracy"
    mode: str = "max"

    def __post_init__(self) -> None:
        check("mode", self.mode, self.mode in ("max", "min"), "choose from max, min")

    @classmethod
    def of(cls, cell: Mapping[str, Any]) -> Metric:
        """The metric of a cell in plain types; accuracy by default."""
        name = cell.get("metric", "accuracy")
        return cls(name, cell.get("mode") or MODES[name])

    @property
    def validation(self) -> str:
        """Its key in a point of a curve."""
        return f"validation_{self.name}"

    @property
    def final(self) -> str:
        """Its key in the result of a run."""
        return f"test_{self.name}"

    @property
    def is_share(self) -> bool:
        """Whether it is between 0 and 1 and shown in per cent."""
        return self.name == "accuracy"

    @property
    def worst(self) -> float:
        """The value of a failed run: 0 for a share, else infinitely bad."""
        return 0.0 if self.is_share else self.gain(-math.inf)

    def check(self, where: str, value: float) -> None:
        """Refuse a share outside 0 and 1, such as a percentage; NaN is a run that broke."""
        if self.is_share and (value < 0 or value > 1 + 1e-6):
            side = "below 0" if value < 0 else "above 1"
            raise UserError(f"{where}: an accuracy of {value:g} is {side}: divide it by 100, or give it another name")

    def check_goal(self, goal: float | None) -> None:
        """Refuse a goal that no run can reach."""
        if goal is not None and self.is_share:
            check("goal", goal, 0 < goal <= 1, "give an accuracy above 0 and at most 1")
        elif goal is not None:
            check("goal", goal, math.isfinite(goal), "give a finite number")

    def gain(self, difference: float) -> float:
        """A difference, signed so that an improvement is positive."""
        return difference if self.mode == "max" else -difference

    def reached(self, value: float, target: float) -> bool:
        """Whether a value is as good as the target.

        >>> Metric("accuracy").reached(0.8, 0.75), Metric("loss", "min").reached(0.8, 0.75)
        (True, False)
        """
        return value >= target if self.mode == "max" else value <= target

    def show(self, value: float, digits: int = 0) -> str:
        """Format a value in its own unit, a percentage with so many decimal places.

        >>> Metric("accuracy").show(0.801), Metric("loss", "min").show(1.23456)
        ('80%', '1.235')
        """
        return f"{value:.{digits}%}" if self.is_share else f"{value:.4g}"


ACCURACY = Metric()


def to_target(
    curve: Iterable[dict[str, Any]], target: float | None, metric: Metric = ACCURACY
) -> dict[str, Any] | None:
    """The first point of a curve, after step 0, that is as good as the target; None if none is.

    >>> to_target([{"step": 0, "validation_accuracy": 0.1}, {"step": 25, "validation_accuracy": 0.8}], 0.75)["step"]
    25
    """
    if target is None:
        return None
    points = (point for point in curve if point["step"] > 0)
    return next((point for point in points if metric.reached(point[metric.validation], target)), None)
