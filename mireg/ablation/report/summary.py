"""The summary of a study, as in ``summary.json``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.saved import add_steps_saved
from mireg.ablation.report.statistics import holm, logrank_p_value, median, paired_p_value, ratio, student
from mireg.ablation.study.metric import Metric, to_target

SCHEMA_VERSION = 1
"""Version of the summary's schema; it changes when a name is removed or changes its meaning."""

AT = (100, 300, 600)
"""Steps at which the metric is listed."""

Runs = Mapping[int, dict[str, Any]]
"""Results of an arm's runs, by seed."""


def summarise(
    study: str,
    results: Sequence[dict[str, Any]],
    arms: Sequence[str] = (),
    tuning: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """Summarise a study, as in ``summary.json``.

    Args:
        study: name of the study.
        results: results of its runs, see :func:`mireg.ablation.training.loop.train`.
        arms: arms in the order in which to list them; others follow.
        tuning: choices of the learning rate by cell and arm (:func:`mireg.ablation.study.tuning.choose`).
    """
    cells = []
    names = {result["cell"] for result in results}
    others = {r["cell"]: parent for r in results if (parent := r["spec"]["cell"].get("budget_of")) in names}
    for name in dict.fromkeys(result["cell"] for result in results if result["cell"] not in others):
        of_cell = [result for result in results if result["cell"] == name]
        present = {result["arm"] for result in of_cell}
        order = [arm for arm in arms if arm in present] + sorted(present.difference(arms))
        cell = _cell(name, {arm: {r["seed"]: r for r in of_cell if r["arm"] == arm} for arm in order})
        add_steps_saved(cell, of_cell, [r for r in results if others.get(r["cell"]) == name])
        cells.append(cell)
    for arm in {arm for cell in cells for arm in cell["arms"]}:
        tested = [cell["arms"][arm]["vs_none"] for cell in cells if cell["arms"].get(arm, {}).get("vs_none")]
        for versus, p in zip(tested, holm([versus["p_value"] for versus in tested]), strict=True):
            versus["p_holm"] = p
    summary = {"schema_version": SCHEMA_VERSION, "study": study, "cells": cells}
    if tuning:
        summary["tuning"] = {
            cell: {arm: found["tried"] for arm, found in arms.items()} for cell, arms in sorted(tuning.items())
        }
        summary["tuned"] = {
            cell: {arm: found["lr"] for arm, found in arms.items()} for cell, arms in sorted(tuning.items())
        }
    return summary


def _cell(name: str, by_arm: Mapping[str, Runs]) -> dict[str, Any]:
    runs = [run for of_arm in by_arm.values() for run in of_arm.values()]
    cell = runs[0]["spec"]["cell"]
    metric = Metric.of(cell)
    shortest = min((run["seconds"] for run in runs if run["failure"] is None), default=0.0)
    summaries = {arm: _arm(of_arm, cell, metric, shortest) for arm, of_arm in by_arm.items()}
    if BASELINE in by_arm:
        for arm, of_arm in by_arm.items():
            if arm != BASELINE:
                summaries[arm]["vs_none"] = _versus(by_arm[BASELINE], of_arm, cell, metric)
                summaries[arm][difference_key(metric)] = _difference(by_arm[BASELINE], of_arm, metric)
    if TERM in by_arm:
        summaries[TERM]["over"] = {
            arm: {
                **_versus(of_arm, by_arm[TERM], cell, metric),
                difference_key(metric): _difference(of_arm, by_arm[TERM], metric),
            }
            for arm, of_arm in by_arm.items()
            if arm not in (BASELINE, TERM)
        }
    return {
        "cell": name,
        "metric": metric.name,
        "mode": metric.mode,
        "target": cell["target"],
        "budget_steps": max(run["spec"]["cell"]["steps"] for run in runs),
        "final_split": runs[0].get("final_split", "test"),
        "devices": sorted({run["device"] for run in runs if "device" in run}),
        "arms": summaries,
    }


def final_key(metric: Metric) -> str:
    """Key of the final metric in an arm's summary."""
    return "final_accuracy" if metric.is_share else "final_metric"


def difference_key(metric: Metric) -> str:
    """Key, in an arm's summary, of the difference of its final metric from that of the arm it is compared with."""
    return "accuracy_difference" if metric.is_share else "metric_difference"


def _arm(runs: Runs, cell: Mapping[str, Any], metric: Metric, seconds: float) -> dict[str, Any]:
    reached = [to_target(run["curve"], cell["target"], metric) for run in runs.values()]
    timely = [[p[metric.validation] for p in run["curve"] if p["seconds"] <= seconds] for run in runs.values()]
    return {
        "n_seeds": len(runs),
        "n_reached": sum(point is not None for point in reached),
        "n_failed": sum(run["failure"] is not None for run in runs.values()),
        "steps_to_target": _times(reached, lambda point: point["step"]),
        "seconds_to_target": _times(reached, lambda point: point["seconds"]),
        final_key(metric): _mean([run[metric.final] for run in runs.values()], metric),
        "equal_time": {"seconds": seconds, **_mean([values[-1] if values else None for values in timely], metric)},
        f"{metric.name}_at": _metric_at(runs.values(), metric),
        "step_ms": _step_ms(runs.values()),
        "lr": next(iter(runs.values()))["lr"],
    }


def _metric_at(runs: Iterable[dict[str, Any]], metric: Metric) -> dict[str, list[float]]:
    """The validation metric over seeds at each step of :data:`AT`, for the runs that reached that step."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for point in run["curve"]:
            if point["step"] in AT:
                found.setdefault(str(point["step"]), []).append(point[metric.validation])
    return found


def _step_ms(runs: Iterable[dict[str, Any]]) -> float | None:
    """Median milliseconds per step; None if every run failed before its second evaluation."""
    times = [point["step_ms"] for run in runs for point in run["curve"] if point["step_ms"] is not None]
    return float(np.median(times)) if times else None


def _times(reached: Sequence[dict[str, Any] | None], read: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    values = [None if point is None else read(point) for point in reached]
    return {"median": median(values), "values": values}


def _versus(baseline: Runs, arm: Runs, cell: Mapping[str, Any], metric: Metric) -> dict[str, Any]:
    seeds = [seed for seed in baseline if seed in arm]
    if not seeds or cell["target"] is None:
        none = dict.fromkeys(("steps_ratio", "bound", "ci95", "p_value", "logrank_p_value"))
        return {"n_pairs": len(seeds), **none, "seconds_ratio": None, "seconds_ci95": None}

    def times(runs: Runs, key: str) -> list[float | None]:
        reached = [to_target(runs[seed]["curve"], cell["target"], metric) for seed in seeds]
        return [None if point is None else point[key] for point in reached]

    steps, limit = (times(baseline, "step"), times(arm, "step")), cell["steps"]
    in_steps = ratio(steps[0], steps[1], limit)
    watched, baseline_watched = ([runs[seed]["seconds"] for seed in seeds] for runs in (arm, baseline))
    in_seconds = ratio(times(baseline, "seconds"), times(arm, "seconds"), watched, baseline_watched)
    return {
        "n_pairs": len(seeds),
        "steps_ratio": in_steps["ratio"],
        "bound": in_steps["bound"],
        "ci95": in_steps["ci95"],
        "p_value": paired_p_value(steps[0], steps[1], limit),
        "logrank_p_value": logrank_p_value(steps[0], steps[1], limit),
        "seconds_ratio": in_seconds["ratio"],
        "seconds_ci95": in_seconds["ci95"],
    }


def _difference(baseline: Runs, arm: Runs, metric: Metric) -> dict[str, Any]:
    """Mean difference of the final metric over paired seeds, arm minus baseline, and Student's interval."""
    pairs = [(run[metric.final], baseline[seed][metric.final]) for seed, run in arm.items() if seed in baseline]
    gains = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    if len(gains) < 2:
        return {"mean": float(gains[0]) if gains else None, "ci95": None}
    mean, half = student(gains)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def _mean(values: Sequence[float | None], metric: Metric) -> dict[str, Any]:
    """Mean over seeds and Student's interval (clipped to 0 and 1 for a share); a failed run may have no value."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return {"mean": float(known[0]) if known else None, "ci95": None}
    mean, half = student(known)
    low, high = mean - half, mean + half
    return {"mean": mean, "ci95": [max(0.0, low), min(1.0, high)] if metric.is_share else [low, high]}
