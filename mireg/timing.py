"""How long steps take beside each other: what `describe` says and `eval.cost` measures."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from statistics import median

import torch


def step_times(
    steps: Mapping[str, Callable[[], object]], device: torch.device, *, rounds: int, seconds: float = 0.0
) -> dict[str, list[float]]:
    """Time steps in turns, so that a machine that slows down slows all of them.

    One round goes before, untimed: the first pass is observed, and allocators and caches warm up. In each round
    another step is the first.

    Args:
        steps: by name.
        device: that they run on; it is waited for before and after each.
        rounds: at least so many.
        seconds: further rounds as long as these have not passed.

    Returns:
        Milliseconds of each step by name, one for each round.

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


def ratio(times: list[float], baseline: list[float]) -> float:
    """Median over the rounds of the ratio within a round."""
    return median(a / b for a, b in zip(times, baseline, strict=True))


def _wait_for(device: torch.device) -> None:
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
