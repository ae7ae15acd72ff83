"""Time steps against each other, for `describe` and `eval.cost`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch

from mireg.schedules import STEPS, Schedule


def step_times(
    steps: Mapping[str, Callable[[], object]], device: torch.device, *, rounds: int, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Time steps in turns, so that a machine that slows down affects all of them.

    An untimed round comes first: the first pass is observed, and allocators and caches warm up. Each round starts
    with a different step.

    Args:
        steps: the steps by name.
        device: the device they run on; it is synchronized before and after each step.
        rounds: minimum number of rounds.
        seconds: minimum total time.

    Returns:
        Milliseconds of each step by name, one value per round.

    >>> list(step_times({"a": lambda: None, "b": lambda: None}, torch.device("cpu"), rounds=2))
    ['a', 'b']
    """

    def run(name: str) -> float:
        _wait_for(device)
        began = time.perf_counter()
        steps[name]()
        _wait_for(device)
        return 1000 * (time.perf_counter() - began)

    names = list(steps)
    for name in names:
        run(name)
    times: dict[str, list[float]] = {name: [] for name in names}
    end = time.monotonic() + seconds
    done = 0
    while done < rounds or time.monotonic() < end:
        shift = done % len(names)
        for name in [*names[shift:], *names[:shift]]:
            times[name].append(run(name))
        done += 1
    return times


def active_steps(weight: Schedule, count: int) -> list[int]:
    """Steps spread evenly over those that use the term: how many layers take their turn changes on the way.

    >>> from mireg.schedules import Linear
    >>> active_steps(Linear(4.0, 400), 4)
    [50, 150, 250, 350]
    """
    end = next((step for step in range(LONGEST) if not weight(step)), STEPS)
    return [(2 * i + 1) * end // (2 * count) for i in range(count)]


LONGEST = 10_000
"""Number of steps after which a schedule counts as one that never ends."""


def ratio(times: list[float], baseline: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(times, baseline, strict=True))


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
