"""The summary of a study, as in ``summary.json``."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mireg.ablation.arms import BASELINE, TERM
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
    baseline: str = BASELINE,
) -> dict[str, Any]:
    """Summarise a study, as in ``summary.json``.

    Args:
        study: name of the study.
        results: results of its runs, see :func:`mireg.ablation.training.run.Run.write`.
        arms: arms in the order in which to list them; others follow.
        tuning: choices of the learning rate by cell and arm (:func:`mireg.ablation.study.tuning.choose`).
        baseline: the arm with which the others are compared, in ``vs_none`` whatever its name.
    """
    cells = []
    names = {result["cell"] for result in results}
    for name in dict.fromkeys(r["cell"] for r in results if r["spec"]["cell"].get("budget_of") not in names):
        of_cell = [result for result in results if result["cell"] == name]
        present = {result["arm"] for result in of_cell}
        order = [arm for arm in arms if arm in present] + sorted(present.difference(arms))
        order.sort(key=lambda arm: arm != baseline)
        by_arm = {arm: {r["seed"]: r for r in of_cell if r["arm"] == arm} for arm in order}
        cells.append(_cell(name, by_arm, baseline))
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


def _cell(name: str, by_arm: Mapping[str, Runs], baseline: str) -> dict[str, Any]:
    runs = [run for of_arm in by_arm.values() for run in of_arm.values()]
    cell = runs[0]["spec"]["cell"]
    metric = Metric.of(cell)
    timed = all("seconds" in point for run in runs for point in run["curve"])
    whole = [run["seconds"] for run in runs if run["failure"] is None]
    shortest = min(whole, default=0.0) if timed else None
    summaries = {arm: _arm(of_arm, cell, metric, shortest) for arm, of_arm in by_arm.items()}
    for arm, of_arm in by_arm.items():
        if arm != baseline and baseline in by_arm:
            compared = versus(by_arm[baseline], of_arm)
            summaries[arm][difference_key(metric)] = compared.pop(difference_key(metric))
            summaries[arm]["vs_none"] = compared
    if TERM in by_arm and baseline != TERM:
        others = [arm for arm in by_arm if arm not in (baseline, TERM)]
        summaries[TERM]["over"] = {arm: versus(by_arm[arm], by_arm[TERM]) for arm in others}
    return {
        "cell": name,
        "metric": metric.name,
        "mode": metric.mode,
        "target": cell["target"],
        "baseline": baseline,
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


def _arm(runs: Runs, cell: Mapping[str, Any], metric: Metric, seconds: float | None) -> dict[str, Any]:
    reached = [to_target(run["curve"], cell["target"], metric) for run in runs.values()]
    timely = [
        [p[metric.validation] for p in run["curve"] if seconds is not None and p["seconds"] <= seconds]
        for run in runs.values()
    ]
    return {
        "n_seeds": len(runs),
        "n_reached": sum(point is not None for point in reached),
        "n_failed": sum(run["failure"] is not None for run in runs.values()),
        "steps_to_target": _times(reached, lambda point: point["step"]),
        "seconds_to_target": _times(reached, lambda point: point.get("seconds")),
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


def _times(reached: Sequence[dict[str, Any] | None], read: Callable[[dict[str, Any]], float | None]) -> dict[str, Any]:
    values = [None if point is None else read(point) for point in reached]
    return {"median": median(values), "values": values}


def versus(baseline: Runs, arm: Runs) -> dict[str, Any]:
    """Compare an arm with a baseline over the seeds that both have.

    Args:
        baseline: results of the baseline's runs, by seed.
        arm: the same of the arm.

    Returns:
        ``n_pairs``; how many of these pairs' runs ``reached`` the goal, of the arm and of the baseline;
        ``steps_ratio`` with its ``bound`` and ``ci95`` (:func:`mireg.ablation.report.statistics.ratio`), the p-values
        and ``seconds_ratio``, None without a goal or pairs; and the difference of the final metric.
    """
    seeds = [seed for seed in baseline if seed in arm]
    first = next(iter(arm.values()))["spec"]["cell"]
    metric, goal = Metric.of(first), first["target"]
    found: dict[str, Any] = {"n_pairs": len(seeds), "reached": None}
    found |= dict.fromkeys(("steps_ratio", "bound", "ci95", "p_value", "logrank_p_value"))
    found |= {"seconds_ratio": None, "seconds_ci95": None, difference_key(metric): _difference(baseline, arm, metric)}
    if not seeds or goal is None:
        return found
    pairs = [[runs[seed] for seed in seeds] for runs in (baseline, arm)]
    points = [[to_target(run["curve"], goal, metric) for run in runs] for runs in pairs]
    theirs, ours = ([None if point is None else point["step"] for point in of] for of in points)
    limit = max(run["spec"]["cell"]["steps"] for run in itertools.chain(*pairs))
    in_steps = ratio(theirs, ours, limit)
    found |= {
        "reached": [sum(step is not None for step in steps) for steps in (ours, theirs)],
        "steps_ratio": in_steps["ratio"],
        "bound": in_steps["bound"],
        "ci95": in_steps["ci95"],
        "p_value": paired_p_value(theirs, ours, limit),
        "logrank_p_value": logrank_p_value(theirs, ours, limit),
    }
    if all("seconds" in point for run in itertools.chain(*pairs) for point in run["curve"]):
        before, after = ([None if point is None else point["seconds"] for point in of] for of in points)
        watched = [[run["seconds"] for run in runs] for runs in pairs]
        in_seconds = ratio(before, after, watched[1], watched[0])
        found |= {"seconds_ratio": in_seconds["ratio"], "seconds_ci95": in_seconds["ci95"]}
    return found


def side_by_side(studies: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compare each arm of a study with the same arm of the first study: the same cell, or the only one of each.

    Args:
        studies: results by name of the study.

    Returns:
        :func:`versus` with ``study``, ``cell``, ``arm`` and ``metric``, for the cells with the same metric and goal.
    """
    (first, base), *others = studies.items()
    rows = []
    for name, results in others:
        for cell in dict.fromkeys(run["cell"] for run in results):
            cells = {run["cell"] for run in base}
            alone = len(cells) == 1 == len({run["cell"] for run in results})
            partner = next(iter(cells)) if alone else cell
            for arm in dict.fromkeys(run["arm"] for run in results if run["cell"] == cell):
                theirs = {run["seed"]: run for run in base if (run["cell"], run["arm"]) == (partner, arm)}
                ours = {run["seed"]: run for run in results if (run["cell"], run["arm"]) == (cell, arm)}
                settings = [_settings(of) for of in (theirs, ours) if of]
                if len(settings) == 2 and settings[0] == settings[1] and set(theirs) & set(ours):
                    head = {"first": first, "study": name, "cell": cell, "arm": arm, **settings[0]}
                    rows.append({**head, **versus(theirs, ours)})
    return rows


def _settings(runs: Runs) -> dict[str, Any]:
    """What must be the same in two studies that are compared."""
    cell = next(iter(runs.values()))["spec"]["cell"]
    metric = Metric.of(cell)
    return {"metric": metric.name, "mode": metric.mode, "target": cell["target"]}


def _difference(baseline: Runs, arm: Runs, metric: Metric) -> dict[str, Any]:
    """Mean difference of the final metric over paired seeds, arm minus baseline, and Student's interval."""
    pairs = [(run[metric.final], baseline[seed][metric.final]) for seed, run in arm.items() if seed in baseline]
    gains = [ours - theirs for ours, theirs in pairs if ours is not None and theirs is not None]
    if len(gains) < 2:
        return {"mean": float(gains[0]) if gains else None, "ci95": None}
    mean, half = student(gains)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def _mean(values: Sequence[float | None], metric: Metric) -> dict[str, Any]:
    """Mean over seeds and Student's interval, within 0 and 1 where the metric is; a failed run may have no value."""
    known = [value for value in values if value is not None]
    if len(known) < 2:
        return {"mean": float(known[0]) if known else None, "ci95": None}
    mean, half = student(known)
    low, high = mean - half, mean + half
    bounded = metric.is_bounded and max(known) <= 1  # curves from elsewhere may be in per cent
    return {"mean": mean, "ci95": [max(0.0, low), min(1.0, high)] if bounded else [low, high]}
