"""The time left is right within a third, although arms differ in cost."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from mireg.ablation.execution.forecast import Forecast

STEPS = 100
PACES = {"none": 0.05, "mi": 0.15}  # seconds per step
RUNS = [f"cell/{arm}/seed-{seed}" for seed in range(6) for arm in PACES]


def steady(seconds: float, arm: str) -> int:
    """Steps done by then."""
    return int(seconds / PACES[arm])


def quicker_later(seconds: float, arm: str) -> int:
    """The same, but ``mi`` is as fast as ``none`` after half of its steps, when the term has ended."""
    slow = min(seconds, PACES[arm] * STEPS / 2)
    return int(slow / PACES[arm] + (seconds - slow) / PACES["none"] + 1e-9)


@pytest.mark.parametrize("says_steps", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize(("steps_after", "arms_known"), [(steady, 1), (quicker_later, 2)])
def test_right_within_a_third_from_the_first_runs_on(
    steps_after: Callable[[float, str], int], arms_known: int, workers: int, says_steps: bool
) -> None:
    now = 0.0
    forecast = Forecast(lambda: now)
    forecast({"event": "study", "runs": len(RUNS), "finished": 0, "missing": RUNS})
    assert forecast.seconds() is None
    total = STEPS if says_steps else None
    waiting, told = list(RUNS), []
    finished: list[str] = []
    running: dict[str, float] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            run = waiting.pop(0)
            running[run] = now
            forecast({"event": "start", "run": run, "step": 0, "steps": total})
        now += 0.25
        for run, began in list(running.items()):
            arm = run.split("/")[1]
            step = min(STEPS, steps_after(now - began, arm))
            forecast({"event": "step", "run": run, "step": step, "steps": total})
            if step == STEPS:
                forecast({"event": "finish", "run": run, "failure": None})
                del running[run]
                finished.append(arm)
        if len(finished) >= 2 and len(set(finished)) >= arms_known:
            told.append((now, forecast.seconds()))
    for moment, left in told:
        true = now - moment
        assert left == pytest.approx(true, rel=1 / 3, abs=2.0), moment
    assert now > 30


def test_a_run_that_continues_does_not_count_for_a_whole_one() -> None:
    clock = [0.0]
    forecast = Forecast(lambda: clock[0])
    forecast({"event": "study", "runs": 2, "finished": 0, "missing": ["c/mi/seed-0", "c/mi/seed-1"]})
    for moment, event in (
        (0.0, {"event": "start", "run": "c/mi/seed-0", "step": 90, "steps": 100}),
        (0.0, {"event": "step", "run": "c/mi/seed-0", "step": 90, "steps": 100}),
        (1.0, {"event": "step", "run": "c/mi/seed-0", "step": 100, "steps": 100}),
        (1.0, {"event": "finish", "run": "c/mi/seed-0", "failure": None}),
        (1.0, {"event": "start", "run": "c/mi/seed-1", "step": 0, "steps": 100}),
        (1.0, {"event": "step", "run": "c/mi/seed-1", "step": 0, "steps": 100}),
        (3.0, {"event": "step", "run": "c/mi/seed-1", "step": 20, "steps": 100}),
    ):
        clock[0] = moment
        forecast(event)
    assert forecast.seconds() == pytest.approx(8.0)
