"""Steps to a target: misses, bounds, intervals, tests and the summary that others read."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from mireg.ablation.report.sources import load_results
from mireg.ablation.report.statistics import holm, logrank_p_value, median, paired_p_value, ratio
from mireg.ablation.report.summary import summarise
from mireg.ablation.study.metric import to_target
from tests.ablation.report.synthetic import TARGET, result, write_study


def test_target_counts_only_after_training() -> None:
    curve = [{"step": 0, "validation_accuracy": 0.9}, {"step": 25, "validation_accuracy": 0.1}]
    assert to_target(curve, 0.5) is None


def test_median_of_a_miss_and_a_hit_is_a_miss() -> None:
    assert median([100, None]) is None


def test_ratio_is_exact_where_both_reach() -> None:
    found = ratio([400, 800, 600], [100, 200, 150], limit=1000)
    assert found["ratio"] == 4
    assert found["bound"] is None
    assert found["ci95"][0] <= 4 <= found["ci95"][1]


def test_ratio_is_a_bound_where_one_misses() -> None:
    assert ratio([None, None], [100, 100], limit=1000) == {"ratio": 10, "bound": "at least", "ci95": [10, 10]}
    slower = ratio([100, 100], [None, None], limit=1000)
    assert (slower["ratio"], slower["bound"]) == (0.1, "at most")


def test_a_miss_stands_for_what_its_own_run_was_watched() -> None:
    """An arm whose steps take longer must not gain by it."""
    slow_arm = ratio([None, None], [50.0, 50.0], limit=[300.0, 300.0], baseline_limit=[100.0, 120.0])
    assert (slow_arm["ratio"], slow_arm["bound"]) == (2.2, "at least")


def test_no_ratio_where_both_miss() -> None:
    assert ratio([None, None], [None, None], limit=1000)["ratio"] is None


def test_one_seed_has_neither_interval_nor_test() -> None:
    assert ratio([100], [50], limit=1000)["ci95"] is None
    assert paired_p_value([100], [50], limit=1000) is None


@pytest.mark.parametrize("seeds", [2, 5, 8])
def test_p_value_of_a_clean_win_is_the_smallest_there_is(seeds: int) -> None:
    p = paired_p_value([800 + i for i in range(seeds)], [100 + i for i in range(seeds)], limit=1000)
    assert p == pytest.approx(2.0 ** (1 - seeds))


def test_p_values_of_no_effect_are_about_uniform() -> None:
    rng = np.random.default_rng(0)
    draws = rng.lognormal(5, 0.5, size=(200, 2, 6))
    p_values = np.array([paired_p_value(a, b, limit=10_000) for a, b in draws])
    assert 0.01 <= np.mean(p_values <= 0.05) <= 0.10


def test_logrank_sees_misses() -> None:
    p = logrank_p_value([None] * 8, [100 + i for i in range(8)], limit=1000)
    assert p is not None
    assert p < 0.01
    assert logrank_p_value([None] * 8, [None] * 8, limit=1000) is None


def test_holm_never_lowers_a_p_value_nor_changes_the_order() -> None:
    raw = [0.2, 0.001, 0.04, 0.03]
    adjusted = [p for p in holm(raw) if p is not None]
    assert all(a >= p for a, p in zip(adjusted, raw, strict=True))
    assert np.array_equal(np.argsort(adjusted, kind="stable")[:1], [1])
    assert all(p is not None and p <= 1 for p in holm([0.9, 0.8]))


def test_summary_keeps_the_names_that_others_read() -> None:
    runs = [result("none", seed, None) for seed in range(3)] + [result("mi", seed, 100) for seed in range(3)]
    (cell,) = summarise("study", runs, ["none", "mi"])["cells"]
    assert (cell["cell"], cell["target"], cell["budget_steps"]) == ("cell", TARGET, 1000)
    assert list(cell["arms"]) == ["none", "mi"]
    none, mi = cell["arms"].values()
    assert "vs_none" not in none
    assert none["steps_to_target"] == {"median": None, "values": [None] * 3}
    assert (mi["n_seeds"], mi["n_reached"], mi["lr"]) == (3, 3, 1e-3)
    assert mi["steps_to_target"] == {"median": 100, "values": [100] * 3}
    assert mi["seconds_to_target"]["median"] == pytest.approx(0.2)
    assert mi["final_accuracy"]["mean"] == pytest.approx(0.88)
    assert mi["vs_none"]["steps_ratio"] == mi["vs_none"]["seconds_ratio"] == 10
    assert mi["vs_none"]["p_value"] == mi["vs_none"]["p_holm"] == 0.25
    json.dumps(cell, allow_nan=False)


def test_accuracy_interval_stays_within_0_and_1() -> None:
    low, high = summarise("study", [result("none", s, None) for s in (0, 8)])["cells"][0]["arms"]["none"][
        "final_accuracy"
    ]["ci95"]
    assert (low, high) == (0, 1)


def test_accuracy_difference_is_paired() -> None:
    runs = [result(arm, seed, None) for arm in ("none", "mi") for seed in range(3)]
    for run in runs[3:]:
        run["test_accuracy"] -= 0.02  # the spread over seeds, far larger, cancels
    mi = summarise("study", runs)["cells"][0]["arms"]["mi"]
    assert mi["accuracy_difference"]["mean"] == pytest.approx(-0.02)
    assert mi["accuracy_difference"]["ci95"] == pytest.approx([-0.02, -0.02])


def test_the_term_is_held_against_every_other_arm() -> None:
    steps = {"none": None, "mi": 100, "lbe": 250, "batchnorm": 50}
    runs = [result(arm, seed, reached) for arm, reached in steps.items() for seed in range(6)]
    arms = summarise("study", runs)["cells"][0]["arms"]
    over = arms["mi"]["over"]
    assert set(over) == {"lbe", "batchnorm"}
    assert (over["lbe"]["steps_ratio"], over["batchnorm"]["steps_ratio"]) == (2.5, 0.5)
    assert over["lbe"]["p_value"] == pytest.approx(2 / 2**6)
    assert over["lbe"]["accuracy_difference"]["mean"] == 0
    assert "over" not in arms["lbe"]


def test_equal_time_reads_the_slower_arm_earlier() -> None:
    runs = [result("none", s, 600) for s in range(2)] + [result("mi", s, 600, step_ms=4.0) for s in range(2)]
    arms = summarise("study", runs)["cells"][0]["arms"]
    assert arms["none"]["equal_time"]["mean"] == pytest.approx(0.9)
    assert arms["mi"]["equal_time"]["mean"] < 0.2


def test_p_values_are_adjusted_over_cells() -> None:
    runs = [
        result(arm, seed, reached, cell=cell)
        for cell in ("one", "two")
        for arm, reached in (("none", 800), ("mi", 100))
        for seed in range(4)
    ]
    versus = [cell["arms"]["mi"]["vs_none"] for cell in summarise("study", runs)["cells"]]
    assert [v["p_holm"] for v in versus] == [2 * v["p_value"] for v in versus] == [0.25, 0.25]


def test_a_run_that_broke_is_counted_and_does_not_set_the_equal_time() -> None:
    broken = result("mi", 0, None) | {"failure": "step 25", "seconds": 0.05}
    broken["curve"] = broken["curve"][:2]
    arms = summarise("study", [result("none", 0, 100), broken])["cells"][0]["arms"]
    assert arms["mi"]["n_failed"] == 1
    assert arms["none"]["equal_time"]["seconds"] == 2.0
    assert math.isfinite(arms["mi"]["equal_time"]["mean"])


def test_a_folder_without_runs_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no finished run"):
        load_results(tmp_path)
    write_study(tmp_path, [result("none", 0, None)])
    assert len(load_results(tmp_path)) == 1
