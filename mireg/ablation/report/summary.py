"""The summary of a study, as in ``summary.json``."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.errors import UserError
from mireg.ablation.report.statistics import holm, logrank_p_value, median, paired_p_value, ratio, student
from mireg.ablation.study.metric import Metric, to_target

SCHEMA_VERSION = 1
"""Version of the summary's schema; it changes when a name is removed or changes its meaning."""

BETWEEN_0_AND_1 = ("accuracy", "f1", "average_precision", "mean_iou")
"""Metrics of the built-in tasks whose means, and the intervals around them, cannot leave that range."""

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
        cells.append(_cell(name, {arm: _runs(of_cell, name, arm) for arm in order}, baseline))
    for arm in {arm for cell in cells for arm in cell["arms"]}:
        tested = [cell["arms"][arm]["vs_none"] for cell in cells if cell["arms"].get(arm, {}).get("vs_none")]
        for versus, p in zip(tested, holm([versus["p_value"] for versus in tested]), strict=True):
            versus["p_holm"] = p
    summary = {"schema_version": SCHEMA_VERSION, "study": study, "cells": cells}
    if tuning:
        by_cell = sorted(tuning.items())
        for key, part in (("tuning", "tried"), ("tuned", "lr")):
            summary[key] = {cell: {arm: found[part] for arm, found in of.items()} for cell, of in by_cell}
    return summary


def _runs(results: Iterable[dict[str, Any]], cell: str, arm: str) -> Runs:
    return {run["seed"]: run for run in results if (run["cell"], run["arm"]) == (cell, arm)}


def _cell(name: str, by_arm: Mapping[str, Runs], baseline: str) -> dict[str, Any]:
    runs = [run for of_arm in by_arm.values() for run in of_arm.values()]
    cell, budget = runs[0]["spec"]["cell"], max(run["spec"]["cell"]["steps"] for run in runs)
    metric = Metric.of(cell)
    if cell["target"] is not None and not budget and any(run["curve"] for run in runs):
        raise UserError(f"{name}: all points are of step 0, and a goal is reached after it: log later ones, or no goal")
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
        "budget_steps": budget,
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
    reached = [to_target(run["curve"], cell["target"], metric) or {} for run in runs.values()]
    steps, times = ([point.get(key) for point in reached] for key in ("step", "seconds"))
    timely = [
        [p[metric.validation] for p in run["curve"] if seconds is not None and p["seconds"] <= seconds]
        for run in runs.values()
    ]
    points = [point for run in runs.values() for point in run["curve"]]
    early = {step: [point[metric.validation] for point in points if point["step"] == step] for step in AT}
    return {
        "n_seeds": len(runs),
        "n_reached": sum(map(bool, reached)),
        "n_failed": sum(run["failure"] is not None for run in runs.values()),
        "steps_to_target": {"median": median(steps), "values": steps},
        "seconds_to_target": {"median": median(times), "values": times},
        final_key(metric): _mean([run[metric.final] for run in runs.values()], metric),
        "equal_time": {"seconds": seconds, **_mean([values[-1] if values else None for values in timely], metric)},
        f"{metric.name}_at": {str(step): values for step, values in early.items() if values},
        "step_ms": step_ms(runs.values()),
        "lr": next(iter(runs.values()))["lr"],
    }


def step_ms(runs: Iterable[Mapping[str, Any]]) -> float | None:
    """Median milliseconds per step; None if every run failed before its second evaluation."""
    times = [point["step_ms"] for run in runs for point in run["curve"] if point["step_ms"] is not None]
    return float(np.median(times)) if times else None


def versus(baseline: Runs, arm: Runs) -> dict[str, Any]:
    """Compare an arm with a baseline over the seeds that both have.

    Returns:
        ``n_pairs``; how many of these pairs' runs ``reached`` the goal, of the arm and of the baseline;
        ``steps_ratio`` with its ``bound`` and ``ci95`` (:func:`mireg.ablation.report.statistics.ratio`), the p-values
        and ``seconds_ratio``, None without a goal or pairs; and the difference of the final metric.
    """
    pairs = [[runs[seed] for seed in baseline if seed in arm] for runs in (baseline, arm)]
    first = next(iter(arm.values()))["spec"]["cell"]
    metric, goal = Metric.of(first), first["target"]
    ends = [(run[metric.final], baseline[seed][metric.final]) for seed, run in arm.items() if seed in baseline]
    gains = [ours - theirs for ours, theirs in ends if ours is not None and theirs is not None]
    found: dict[str, Any] = {"n_pairs": len(pairs[0]), "reached": None}
    found |= dict.fromkeys(("steps_ratio", "bound", "ci95", "p_value", "logrank_p_value"))
    found |= {"seconds_ratio": None, "seconds_ci95": None, difference_key(metric): _interval(gains)}
    limit = max((run["spec"]["cell"]["steps"] for run in itertools.chain(*pairs)), default=0)
    if not limit or goal is None:
        return found
    points = [[to_target(run["curve"], goal, metric) or {} for run in runs] for runs in pairs]
    theirs, ours = ([point.get("step") for point in of] for of in points)
    in_steps = ratio(theirs, ours, limit)
    found |= {
        "reached": [sum(step is not None for step in steps) for steps in (ours, theirs)],
        "steps_ratio": in_steps.pop("ratio"),
        **in_steps,
        "p_value": paired_p_value(theirs, ours, limit),
        "logrank_p_value": logrank_p_value(theirs, ours, limit),
    }
    watched = [[run["seconds"] for run in runs] for runs in pairs]
    longest = max(filter(None, itertools.chain(*watched)), default=None)
    if longest and all("seconds" in point for run in itertools.chain(*pairs) for point in run["curve"]):
        before, after = ([point.get("seconds") for point in of] for of in points)
        limits = [[longest if known is None else known for known in of] for of in watched]  # None: broke at once
        in_seconds = ratio(before, after, limits[1], limits[0])
        found |= {"seconds_ratio": in_seconds["ratio"], "seconds_ci95": in_seconds["ci95"]}
    return found


def side_by_side(studies: Mapping[str, Sequence[dict[str, Any]]]) -> list[dict[str, Any]]:
    """Compare each arm of a study with the same arm of the first study: the same cell, or the only one of each.

    Returns, of results by name of the study, :func:`versus` with ``study``, ``cell``, ``arm`` and ``metric``, for the
    cells with the same metric and goal.
    """
    (first, base), *others = studies.items()
    rows = []
    for name, results in others:
        theirs, ours = ({run["cell"]: None for run in of} for of in (base, results))
        for cell in ours:
            partner = next(iter(theirs)) if len(theirs) == 1 == len(ours) else cell
            for arm in dict.fromkeys(run["arm"] for run in results if run["cell"] == cell):
                pair = _runs(base, partner, arm), _runs(results, cell, arm)
                settings = [_settings(of) for of in pair if of]
                if len(settings) == 2 and settings[0] == settings[1] and set(pair[0]) & set(pair[1]):
                    head = {"first": first, "study": name, "cell": cell, "arm": arm, **settings[0]}
                    rows.append({**head, **versus(*pair)})
    return rows


def _settings(runs: Runs) -> dict[str, Any]:
    """What must be the same in two studies that are compared."""
    cell = next(iter(runs.values()))["spec"]["cell"]
    metric = Metric.of(cell)
    return {"metric": metric.name, "mode": metric.mode, "target": cell["target"]}


def _mean(values: Sequence[float | None], metric: Metric) -> dict[str, Any]:
    """Mean over seeds and Student's interval, within 0 and 1 where the metric is; a failed run may have no value."""
    known = [value for value in values if value is not None]
    found = _interval(known)
    if found["ci95"] and metric.name in BETWEEN_0_AND_1 and max(known) <= 1:  # curves from elsewhere may be in per cent
        found["ci95"] = [max(0.0, found["ci95"][0]), min(1.0, found["ci95"][1])]
    return found


def _interval(values: Sequence[float]) -> dict[str, Any]:
    """Mean and Student's interval, which takes two values."""
    if len(values) < 2:
        return {"mean": float(values[0]) if values else None, "ci95": None}
    mean, half = student(values)
    return {"mean": mean, "ci95": [mean - half, mean + half]}
