"""Steps saved at a fixed budget: a better final metric, expressed in steps of the baseline."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from mireg.ablation.report.statistics import CONFIDENCE, RESAMPLES
from mireg.ablation.report.tables import Table, of_rows
from mireg.ablation.report.text import interval_text
from mireg.ablation.study.metric import Metric

TINY = 1e-9
"""Fraction of the metric below which a gain over the budgets is considered rounding."""


SHORTEST = 1e-3
"""Minimum seconds of a run, for runs too short to time."""


def steps_saved(
    budget: int,
    arm: Sequence[float],
    baseline: Mapping[int, Sequence[float]],
    metric: Metric,
    costs: Sequence[float] = (1.0,),
) -> dict[str, Any]:
    """Compute the fraction of the baseline's steps that an arm saves at the same final metric.

    The baseline's final metric is modelled as linear in the logarithm of its budget, fitted to its means by least
    squares. The arm's mean is on that line at some number of steps n, within the budgets or beyond them, and
    ``1 - budget / n`` is saved. A percentile bootstrap resamples seeds jointly for the arm and all budgets.

    Args:
        budget: steps of the arm.
        arm: (seeds,) final metric of the arm.
        baseline: for each budget, the (seeds,) final metric of the same seeds; at least two budgets.
        metric: the metric, with its direction.
        costs: seconds of the arm's runs over those of the baseline's at the same budget, by seed or for all.

    Returns:
        ``budgets``, ``n_pairs``, ``mean`` (None if the baseline does not improve with more steps) and ``ci95`` (None
        with fewer than 2 seeds, or if it does not improve in at least one of twenty resamples). The same as a speed in
        seconds, n steps of the baseline over the arm's time, as ``seconds_ratio`` and ``seconds_ci95``.

    >>> found = steps_saved(1000, [1.5], {250: [3.0], 500: [2.5], 1000: [2.0]}, Metric("loss", "min"))
    >>> round(found["mean"], 6)  # the baseline would need 2000
    0.5
    """
    budgets = sorted(baseline)
    finals = np.array([baseline[steps] for steps in budgets], dtype=float)
    ours = np.array(arm, dtype=float)
    everyone = np.arange(len(ours))[None]
    cost = np.broadcast_to(np.array(costs, dtype=float), len(ours))
    mean = _saved(budget, ours[everyone].mean(1), finals[:, everyone].mean(2), budgets, metric)[0]
    interval = seconds_interval = None
    if len(ours) >= 2 and math.isfinite(mean):
        pick = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
        found = _saved(budget, ours[pick].mean(1), finals[:, pick].mean(2), budgets, metric)
        tail = 50 * (1 - CONFIDENCE)
        if np.isfinite(found).mean() > CONFIDENCE:
            interval = [float(edge) for edge in np.nanpercentile(found, [tail, 100 - tail])]
            speeds = 1 / (1 - found) / np.exp(np.log(cost)[pick].mean(1))
            seconds_interval = [float(edge) for edge in np.nanpercentile(speeds, [tail, 100 - tail])]
    return {
        "budgets": budgets,
        "n_pairs": len(ours),
        "mean": float(mean) if math.isfinite(mean) else None,
        "ci95": interval,
        "seconds_ratio": float(1 / (1 - mean) / np.exp(np.log(cost).mean())) if math.isfinite(mean) else None,
        "seconds_ci95": seconds_interval,
    }


def _saved(budget: int, arm: np.ndarray, baseline: np.ndarray, budgets: Sequence[int], metric: Metric) -> np.ndarray:
    """Fraction of steps saved in each resample; NaN if the baseline does not improve with more steps.

    Args:
        budget: steps of the arm.
        arm: (m,) means.
        baseline: (budgets, m) means.
        budgets: steps of the baseline.
        metric: the metric, with its direction.
    """
    logs = np.log(budgets)
    away = logs - logs.mean()
    slope = metric.gain(1.0) * (away[:, None] * baseline).sum(0) / (away**2).sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        needed = logs.mean() + metric.gain(1.0) * (arm - baseline.mean(0)) / slope
        saved = 1 - budget / np.exp(np.clip(needed, -700, 700))
    return np.where(slope > TINY * np.abs(baseline).max(0), saved, np.nan)


def with_steps_saved(summary: dict[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Add ``steps_saved`` to the arms of the cells of a summary whose baseline also ran with other budgets."""
    for cell in summary["cells"]:
        of_cell = [r for r in results if cell["cell"] in (r["cell"], r["spec"]["cell"].get("budget_of"))]
        _add(cell, of_cell)
    return summary


def _add(cell: dict[str, Any], runs: Sequence[Mapping[str, Any]]) -> None:
    metric, reference = Metric.of(cell), cell["baseline"]
    finals: dict[tuple[str, int], dict[int, float]] = {}
    for run in runs:
        if run[metric.final] is not None and run["failure"] is None:
            finals.setdefault((run["arm"], run["spec"]["cell"]["steps"]), {})[run["seed"]] = run[metric.final]
    own = [run for run in runs if run["cell"] == cell["cell"]]
    seconds = {(run["arm"], run["seed"]): max(run["seconds"] or 0.0, SHORTEST) for run in own}
    baseline = {steps: of for (arm, steps), of in finals.items() if arm == reference}
    for name, arm in cell["arms"].items():
        ours = finals.get((name, cell["budget_steps"]), {})
        seeds = sorted(set(ours).intersection(*baseline.values()))
        if name != reference and len(baseline) >= 2 and seeds:
            by_budget = {steps: [of[seed] for seed in seeds] for steps, of in baseline.items()}
            finals_of_arm = [ours[seed] for seed in seeds]
            costs = [seconds[name, seed] / seconds[reference, seed] for seed in seeds]
            arm["steps_saved"] = steps_saved(cell["budget_steps"], finals_of_arm, by_budget, metric, costs)


ABOUT = (
    "The share of the baseline's steps that an arm does without: how much shorter its budget is than the one with "
    "which the baseline would end as well, read off the baseline's own end at several budgets."
)


def table(summary: Mapping[str, Any]) -> Table:
    """The steps saved, a row per cell and arm; empty if no baseline ran with several budgets."""
    rows = [
        [
            cell["cell"],
            name,
            ", ".join(map(str, saved["budgets"])),
            interval_text(saved["mean"], saved["ci95"], ".0f", scale=100, unit="%")
            or f"{cell['baseline']} gains nothing by more steps",
            str(saved["n_pairs"]),
        ]
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if (saved := arm.get("steps_saved"))
    ]
    return of_rows(["cell", "arm", "budgets of the baseline", "steps saved [95%]", "paired seeds"], rows)
