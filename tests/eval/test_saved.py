"""Steps saved at a fixed budget."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.saved import steps_saved, table, with_steps_saved
from mireg.ablation import report
from mireg.ablation.study.metric import Metric
from tests.ablation.report.synthetic import result, write_study

LOSS = Metric("loss", "min")


def line(steps: int, seeds: int, noise: float = 0.0) -> list[float]:
    """The final accuracy of a baseline that gains 0.1 with each doubling of its budget."""
    rng = np.random.default_rng(steps)
    return [0.5 + 0.1 * np.log2(steps / 600) + noise * z for z in rng.standard_normal(seeds)]


BUDGETS = (600, 800, 1000)


@pytest.mark.parametrize("equivalent", [700, 1000, 1250, 2000])
def test_an_arm_that_ends_as_the_baseline_would_with_more_or_fewer_steps(equivalent: int) -> None:
    found = steps_saved(1000, line(equivalent, 5), {steps: line(steps, 5) for steps in BUDGETS}, Metric())
    assert found["mean"] == pytest.approx(1 - 1000 / equivalent)
    assert found["ci95"] == pytest.approx([found["mean"]] * 2)
    assert found["budgets"] == list(BUDGETS)


def test_less_is_better_for_a_loss() -> None:
    baseline = {steps: [3 - value for value in line(steps, 5)] for steps in BUDGETS}
    assert steps_saved(1000, [3 - value for value in line(1250, 5)], baseline, LOSS)["mean"] == pytest.approx(0.2)


def test_nothing_is_said_where_the_baseline_gains_nothing() -> None:
    flat = {steps: [0.5] * 5 for steps in BUDGETS}
    assert steps_saved(1000, [0.6] * 5, flat, Metric())["mean"] is None
    falls = {steps: [0.5 - steps / 10_000] * 5 for steps in BUDGETS}
    found = steps_saved(1000, [0.6] * 5, falls, Metric())
    assert (found["mean"], found["ci95"]) == (None, None)


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    hits = []
    for trial in range(60):
        rng = np.random.default_rng(trial)
        truth = {steps: 0.5 + 0.1 * np.log2(steps / 600) for steps in (*BUDGETS, 1250)}
        noisy = {steps: (mean + 0.01 * rng.standard_normal(10)).tolist() for steps, mean in truth.items()}
        low, high = steps_saved(1000, noisy.pop(1250), noisy, Metric())["ci95"]
        hits.append(low <= 0.2 <= high)
    assert 0.8 <= np.mean(hits) <= 1


def test_speed_in_seconds_counts_what_the_arm_costs() -> None:
    baseline = {steps: line(steps, 5) for steps in BUDGETS}
    found = steps_saved(1000, line(1250, 5), baseline, Metric(), [1.25] * 5)
    assert found["seconds_ratio"] == pytest.approx(1.0)
    assert found["seconds_ci95"] == pytest.approx([1.0, 1.0])


def test_one_seed_has_no_interval() -> None:
    assert steps_saved(1000, line(1250, 1), {steps: line(steps, 1) for steps in BUDGETS}, Metric())["ci95"] is None


def short(steps: int, seed: int, final: float) -> dict[str, Any]:
    run = result("none", seed, None, cell=f"P1-{steps}", steps=steps) | {"test_accuracy": final}
    run["spec"]["cell"]["budget_of"] = "P1"
    return run


def test_the_summary_has_it_and_no_cells_of_the_other_budgets(tmp_path: Path) -> None:
    runs = [result(arm, seed, 500, cell="P1") for arm in ("none", "mi") for seed in range(3)]
    for run in runs:
        run["test_accuracy"] = line(1000 if run["arm"] == "none" else 1250, 1)[0]
    runs += [short(steps, seed, line(steps, 1)[0]) for steps in (600, 800) for seed in range(3)]
    write_study(tmp_path, runs)
    summary = with_steps_saved(report.report(tmp_path), runs)
    (cell,) = summary["cells"]
    assert cell["cell"] == "P1"
    assert cell["arms"]["mi"]["steps_saved"]["mean"] == pytest.approx(0.2)
    assert "steps_saved" not in cell["arms"]["none"]
    assert [texts[0] for texts in table(summary).values()] == ["P1", "mi", "600, 800, 1000", "20% [20, 20]", "3"]
    assert (tmp_path / "runs.csv").read_text().count("P1-600") == 3
