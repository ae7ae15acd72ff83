"""Forecast of a study's remaining time."""

from __future__ import annotations

import heapq
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, median
from typing import Any


@dataclass
class _Clocked:
    """Timing of a run in progress."""

    began: float
    start: int
    steps: int | None
    first: tuple[float, int] | None = None
    last: tuple[float, int] | None = None

    def duration(self, steps: int | None) -> float | None:
        """Total seconds from its start to the end, extrapolated from two points of its curve."""
        if not (steps and self.first and self.last and self.last[1] > self.first[1]):
            return None
        pace = (self.last[0] - self.first[0]) / (self.last[1] - self.first[1])
        return self.first[0] - self.began + pace * (steps - self.first[1])


class Forecast:
    """Forecasts the seconds until a study ends.

    Arms differ in cost: a run is expected to take the median time of its arm's, since a worker's first takes longer.

    Args:
        clock: returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._waiting: dict[str, None] = {}
        self._running: dict[str, _Clocked] = {}
        self._took: dict[str, list[float]] = {}
        self._steps = 0  # steps of a finished run, for loops that do not give their number
        self._at_once = 1

    def __call__(self, event: dict[str, Any]) -> None:
        """Handle an event, see :mod:`mireg.ablation.events`."""
        now, run = self._clock(), event.get("run", "")
        match event["event"]:
            case "study":
                self._waiting = dict.fromkeys(event["missing"])
            case "start":
                self._waiting.pop(run, None)
                self._running[run] = _Clocked(now, event["step"], event["steps"])
                self._at_once = max(self._at_once, len(self._running))
            case "step" if run in self._running:
                clocked = self._running[run]
                clocked.last = (now, event["step"])
                clocked.first = clocked.first or clocked.last
            case "finish":
                self._waiting.pop(run, None)
                self._finish(run, now)

    def _finish(self, run: str, now: float) -> None:
        clocked = self._running.pop(run, None)
        if clocked is None or clocked.last is None:
            return
        if not clocked.start:  # else the run was resumed
            self._took.setdefault(_arm(run), []).append(now - clocked.began)
        self._steps = clocked.last[1]

    def seconds(self) -> float | None:
        """Seconds until the end; None if still unknown."""
        paces = {run: clocked.duration(clocked.steps or self._steps) for run, clocked in self._running.items()}
        finished = {arm: median(took) for arm, took in self._took.items()}
        known = dict(finished)
        for run, pace in paces.items():
            if pace is not None and not self._running[run].start:
                known.setdefault(_arm(run), pace)
        if not known and not any(paces.values()):
            return 0.0 if not (self._running or self._waiting) else None
        usual = mean(known.values()) if known else mean(pace for pace in paces.values() if pace)
        now = self._clock()
        left = []
        for run, clocked in self._running.items():
            elapsed = now - clocked.began
            total = paces[run] or known.get(_arm(run), usual)
            # Finished runs know how the pace changes, as when the term ends. They say nothing of late or resumed runs.
            if not clocked.start and elapsed < finished.get(_arm(run), 0.0):
                total = finished[_arm(run)]
            left.append(max(0.0, total - elapsed))
        free = left + [0.0] * (self._at_once - len(left))  # when each worker is free
        heapq.heapify(free)
        for run in self._waiting:
            heapq.heapreplace(free, free[0] + known.get(_arm(run), usual))
        return max(free)


def _arm(run: str) -> str:
    return run.rpartition("/")[0]


def time_text(seconds: float | None) -> str:
    """Format a remaining time, rounded to a sensible precision.

    >>> [time_text(seconds) for seconds in (None, 0.4, 47, 119, 4000)]
    ['', '0 s left', '47 s left', '2 min left', '1.1 h left']
    """
    if seconds is None:
        return ""
    if seconds < 90:
        return f"{seconds:.0f} s left"
    return f"{seconds / 60:.0f} min left" if seconds < 3600 else f"{seconds / 3600:.1f} h left"
