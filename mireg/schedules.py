"""Schedules for the weight of the term: callables from a step to a number."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from numbers import Real

Schedule = Callable[[int], float]
"""Maps the step, counted from 0 in calls of ``mi_loss()``, to a weight of at least 0."""


@dataclass(frozen=True)
class Constant:
    """The same weight at every step.

    >>> Constant(0.3)(1000)
    0.3
    """

    value: float

    def __call__(self, step: int) -> float:
        return self.value


@dataclass(frozen=True)
class Linear:
    """A straight line from ``start`` to ``end`` over ``steps`` steps, constant afterwards.

    >>> [round(Linear(0.3, 100)(step), 2) for step in (0, 50, 100, 500)]
    [0.3, 0.15, 0.0, 0.0]
    """

    start: float
    steps: int
    end: float = 0.0

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0) if self.steps > 0 else 1.0
        return self.start + (self.end - self.start) * done


@dataclass(frozen=True)
class Cosine:
    """Half a cosine from ``start`` to ``end`` over ``steps`` steps, constant afterwards.

    >>> [round(Cosine(1.0, 100)(step), 2) for step in (0, 50, 100)]
    [1.0, 0.5, 0.0]
    """

    start: float
    steps: int
    end: float = 0.0

    def __call__(self, step: int) -> float:
        done = min(step / self.steps, 1.0) if self.steps > 0 else 1.0
        return self.end + (self.start - self.end) * (1 + math.cos(math.pi * done)) / 2


STEPS = 400
"""Steps over which a weight that is a number falls to 0."""


LARGEST_WEIGHT = 1e30
"""Largest weight that is a number: the term is computed in float32."""


def as_schedule(weight: float | Schedule, steps: int | None = None) -> Schedule:
    """Turn a number into a line that falls to 0; return a schedule unchanged.

    Args:
        weight: a number, or a schedule.
        steps: length of the line, by default 400; None for a schedule.

    Raises:
        TypeError: if ``weight`` is neither a number nor callable.
        ValueError: if a number is negative, above 1e30 or not finite, or ``steps`` is below 1 or beside a schedule.

    >>> as_schedule(4.0, 100)(50), as_schedule(Constant(1.0))(50)
    (2.0, 1.0)
    """
    if callable(weight):
        if steps is not None:
            raise ValueError(f"steps={steps}: the weight is a schedule, which says itself how long it lasts")
        return weight
    if steps is not None and not (isinstance(steps, Real) and steps >= 1):
        raise ValueError(f"steps={steps!r}: the weight falls to 0 over at least 1 step")
    if isinstance(weight, bool) or not isinstance(weight, Real):
        raise TypeError(f"weight={weight!r}: give a number or a schedule, such as mireg.schedules.Linear(0.3, 500)")
    if not 0 <= weight <= LARGEST_WEIGHT:
        raise ValueError(
            f"weight={weight!r}: must be finite and at least 0 (0 switches the term off), "
            f"and at most {LARGEST_WEIGHT:g}"
        )
    return Linear(float(weight), STEPS if steps is None else steps)
