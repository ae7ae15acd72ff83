"""The time left is right within a third, although arms differ in cost."""

from __future__ import annotations

import pytest

from mireg.ablation.execution.forecast import Forecast

STEPS = 100
ARMS = ("none", "mi")
RUNS = [f"cell/{arm}/seed-{seed}" for seed in range(6) for arm in ARMS]


def steps_after(seconds: float, arm: str) -> int:
    """Steps done by then: ``mi`` is three times slower until the term ends, after half of its steps."""
    if arm == "mi":
        slow = min(seconds, 0.15 * STEPS / 2)
        return min(STEPS, int(slow / 0.15 + (seconds - slow) / 0.05 + 1e-9))
    return min(STEPS, int(seconds / 0.05 + 1e-9))


@pytest.mark.parametrize("says_steps", [True, False])
@pytest.mark.parametrize("workers", [1, 2])
def test_right_within_a_third_once_each_arm_has_a_finished_run(workers: int, says_steps: bool) -> None:
    now = 0.0
    forecast = Forecast(lambda: now)
    forecast({"event": "study", "runs": len(RUNS), "finished": 0, "missing": RUNS})
    assert forecast.seconds() is None
    total = STEPS if says_steps else None
    waiting, told, finished = list(RUNS), [], set()
    running: dict[str, float] = {}
    while waiting or running:
        while waiting and len(running) < workers:
            run = waiting.pop(0)
            running[run] = now
            forecast({"event": "start", "run": run, "step": 0, "steps": total})
        now += 0.25
        for run, began in list(running.items()):
            step = steps_after(now - began, run.split("/")[1])
            forecast({"event": "step", "run": run, "step": step, "steps": total})
            if step == STEPS:
                forecast({"event": "finish", "run": run, "failure": None})
                del running[run]
                finished.add(run.split("/")[1])
        if len(finished) == len(ARMS):
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
