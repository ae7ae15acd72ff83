"""Steps to a target accuracy: with misses counted, paired by seed, with intervals and exact tests."""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.curves import to_target
from mireg.ablation.storage import DamagedError, read_result

ARCHIVE = "results.jsonl.gz"
"""In an archive's folder: a line per run."""

CONFIDENCE = 0.95
RESAMPLES = 10_000


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Every finished run below a study's folder, or of an archive (:mod:`eval.archive`).

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if one is not what was written.
    """
    if not (folder / "runs").exists() and (folder / ARCHIVE).exists():
        return read_lines(folder / ARCHIVE)
    paths = sorted((folder / "runs").glob("*/*/*/result.json"))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no finished run (runs/*/*/*/result.json)")
    return [result for path in paths if (result := read_result(path)) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The runs of an archive.

    Raises:
        DamagedError: if the file is not what was written.
    """
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DamagedError(f"{path} is damaged") from error


def median(values: Sequence[float | None]) -> float | None:
    """Median in which a miss (None) is infinitely late; None if that is the median.

    >>> median([100, 200, None])
    200.0
    >>> median([100, None, None]) is None
    True
    """
    middle = float(np.median([math.inf if value is None else value for value in values]))
    return middle if math.isfinite(middle) else None


Limit = float | Sequence[float]
"""Where misses stopped being watched: one number, or one for each run."""


def ratio(
    baseline: Sequence[float | None], arm: Sequence[float | None], limit: Limit, baseline_limit: Limit | None = None
) -> dict[str, Any]:
    """How many times sooner the arm gets there: median of the baseline over median of the arm.

    Args:
        baseline: steps or seconds to target by seed, None for a miss.
        arm: of the same seeds.
        limit: where a miss stopped being watched; it stands in for one, so that a ratio to a median
            that is a miss is a bound.
        baseline_limit: the same for the baseline, if that was watched for another time.

    Returns:
        ``ratio`` (None where both medians are misses), ``bound`` (None, ``"at least"`` or ``"at most"``),
        ``ci95``, a percentile bootstrap over paired seeds (None from fewer than 2).

    >>> found = ratio([600, None, None], [100, 200, 125], limit=1000)
    >>> found["ratio"], found["bound"]
    (8.0, 'at least')
    """
    ours, theirs = _censored(arm, limit), _censored(baseline, limit if baseline_limit is None else baseline_limit)
    missed = (median(baseline) is None, median(arm) is None)
    bound = {(True, False): "at least", (False, True): "at most"}.get(missed)
    interval = None
    if len(ours) >= 2:
        pick = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
        ratios = np.median(theirs[pick], axis=1) / np.median(ours[pick], axis=1)
        tail = 50 * (1 - CONFIDENCE)
        interval = [float(edge) for edge in np.percentile(ratios, [tail, 100 - tail])]
    return {
        "ratio": None if all(missed) else float(np.median(theirs) / np.median(ours)),
        "bound": bound,
        "ci95": interval,
    }


def paired_p_value(baseline: Sequence[float | None], arm: Sequence[float | None], limit: float) -> float | None:
    """Two-sided permutation test on the mean log ratio of paired seeds; None from fewer than 2.

    With n seeds no p-value below 2^(1-n) can come out. It is exact up to 16 seeds; beyond, of that many random swaps.
    """
    if len(arm) < 2:
        return None
    logs = np.log(_censored(baseline, limit)), np.log(_censored(arm, limit))
    if np.array_equal(*logs):
        return 1.0

    def mean_difference(x: np.ndarray, y: np.ndarray, axis: int) -> np.ndarray:
        return np.mean(x - y, axis=axis)

    test = stats.permutation_test(
        logs, mean_difference, permutation_type="samples", n_resamples=2**16, rng=np.random.default_rng(0)
    )
    return float(test.pvalue)


def logrank_p_value(baseline: Sequence[float | None], arm: Sequence[float | None], limit: float) -> float | None:
    """Log-rank test on the times to target, misses censored at the limit; None if nobody got there."""
    if len(arm) < 2 or not any(value is not None for value in (*baseline, *arm)):
        return None
    samples = [
        stats.CensoredData(uncensored=[v for v in values if v is not None], right=[limit for v in values if v is None])
        for values in (baseline, arm)
    ]
    with np.errstate(invalid="ignore"):  # everybody there at the same step: 0/0
        p = float(stats.logrank(*samples).pvalue)
    return p if math.isfinite(p) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """P-values adjusted for their number; None, where there was no test, stays and does not count.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def performance_profile(cells: Sequence[dict[str, Any]]) -> dict[str, list[float]]:
    """How far each arm is from the fastest, over the cells that it ran in.

    Args:
        cells: of a summary.

    Returns:
        By arm, a number per cell: its median steps to target over the smallest of any arm in that
        cell, in increasing order, infinity where it has no median. The share of these that is at
        most tau, drawn over tau, is the performance profile. Cells that no arm solves are left out.

    Source: Dolan & Moré, Benchmarking optimization software with performance profiles, Mathematical
    Programming 91, 2002.

    >>> def cell(**steps):
    ...     return {"arms": {arm: {"steps_to_target": {"median": median}} for arm, median in steps.items()}}
    >>> performance_profile([cell(none=None, mi=100), cell(none=50, mi=100)])
    {'none': [1.0, inf], 'mi': [1.0, 2.0]}
    """
    profile: dict[str, list[float]] = {}
    for cell in cells:
        medians = {name: arm["steps_to_target"]["median"] or math.inf for name, arm in cell["arms"].items()}
        best = min(medians.values())
        for name, steps in medians.items():
            if math.isfinite(best):
                profile.setdefault(name, []).append(steps / best)
    return {name: sorted(ratios) for name, ratios in profile.items()}


def summarise(
    study: str,
    results: Sequence[dict[str, Any]],
    arms: Sequence[str] = (),
    tuning: Mapping[str, dict[str, Any]] | None = None,
) -> dict[str, Any]:
    """The study's summary, as it is written to ``summary.json``.

    Args:
        study: its name.
        results: of its runs, see :func:`mireg.ablation.run.train`.
        arms: in the order in which to list them; others follow.
        tuning: by cell and arm, what the learning rate was chosen from (:func:`mireg.ablation.tuning.choose`).
    """
    cells = []
    for name in dict.fromkeys(result["cell"] for result in results):
        of_cell = [result for result in results if result["cell"] == name]
        cell = of_cell[0]["spec"]["cell"]
        present = {result["arm"] for result in of_cell}
        order = [arm for arm in arms if arm in present] + sorted(present.difference(arms))
        by_arm = {arm: {r["seed"]: r for r in of_cell if r["arm"] == arm} for arm in order}
        shortest = min((r["seconds"] for r in of_cell if r["failure"] is None), default=0.0)
        summaries = {arm: _arm(runs, cell["target"], shortest) for arm, runs in by_arm.items()}
        if BASELINE in by_arm:
            for arm in order:
                if arm != BASELINE:
                    summaries[arm]["vs_none"] = _versus(by_arm[BASELINE], by_arm[arm], cell)
                    summaries[arm]["accuracy_difference"] = _difference(by_arm[BASELINE], by_arm[arm])
        if TERM in by_arm:
            summaries[TERM]["over"] = {
                arm: {
                    **_versus(runs, by_arm[TERM], cell),
                    "accuracy_difference": _difference(runs, by_arm[TERM]),
                }
                for arm, runs in by_arm.items()
                if arm not in (BASELINE, TERM)
            }
        cells.append(
            {
                "cell": name,
                "target": cell["target"],
                "budget_steps": cell["steps"],
                "devices": sorted({result["device"] for result in of_cell if "device" in result}),
                "arms": summaries,
            }
        )
    for arm in {arm for cell in cells for arm in cell["arms"]}:
        tested = [cell["arms"][arm]["vs_none"] for cell in cells if cell["arms"].get(arm, {}).get("vs_none")]
        for versus, p in zip(tested, holm([versus["p_value"] for versus in tested]), strict=True):
            versus["p_holm"] = p
    summary = {"study": study, "cells": cells}
    if tuning:
        summary["tuning"] = {
            cell: {arm: found["tried"] for arm, found in arms.items()} for cell, arms in sorted(tuning.items())
        }
    return summary


def _arm(runs: dict[int, dict[str, Any]], target: float, seconds: float) -> dict[str, Any]:
    reached = [to_target(run["curve"], target) for run in runs.values()]
    accuracy = [run["test_accuracy"] for run in runs.values()]
    timely = [[p for p in run["curve"] if p["seconds"] <= seconds][-1] for run in runs.values()]
    return {
        "n_seeds": len(runs),
        "n_reached": sum(point is not None for point in reached),
        "n_failed": sum(run["failure"] is not None for run in runs.values()),
        "n_stood_aside": sum(run.get("stood_aside", False) for run in runs.values()),
        "steps_to_target": _times(reached, lambda point: point["step"]),
        "seconds_to_target": _times(reached, lambda point: point["seconds"]),
        "final_accuracy": _mean(accuracy),
        "equal_time": {"seconds": seconds, **_mean([point["validation_accuracy"] for point in timely])},
        "accuracy_at": _accuracy_at(runs.values()),
        "step_ms": _step_ms(runs.values()),
        "lr": next(iter(runs.values()))["lr"],
    }


AT = (100, 300, 600)
"""Steps at which accuracies are listed."""


def _accuracy_at(runs: Iterable[dict[str, Any]]) -> dict[str, list[float]]:
    """Validation accuracies over seeds at each of :data:`AT`, of the runs that got that far."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for point in run["curve"]:
            if point["step"] in AT:
                found.setdefault(str(point["step"]), []).append(point["validation_accuracy"])
    return found


def _step_ms(runs: Iterable[dict[str, Any]]) -> float | None:
    """Median milliseconds; None where every run broke before its second evaluation."""
    times = [point["step_ms"] for run in runs for point in run["curve"] if point["step_ms"] is not None]
    return float(np.median(times)) if times else None


def _times(reached: Sequence[dict[str, Any] | None], read: Callable[[dict[str, Any]], float]) -> dict[str, Any]:
    values = [None if point is None else read(point) for point in reached]
    return {"median": median(values), "values": values}


def _versus(
    baseline: dict[int, dict[str, Any]], arm: dict[int, dict[str, Any]], cell: dict[str, Any]
) -> dict[str, Any]:
    seeds = [seed for seed in baseline if seed in arm]
    if not seeds:
        return {"n_pairs": 0, "steps_ratio": None, "ci95": None, "p_value": None, "seconds_ratio": None}
    reached = [[to_target(runs[seed]["curve"], cell["target"]) for seed in seeds] for runs in (baseline, arm)]
    steps = [[None if p is None else p["step"] for p in points] for points in reached]
    seconds = [[None if p is None else p["seconds"] for p in points] for points in reached]
    in_steps = ratio(*steps, limit=cell["steps"])
    watched, baseline_watched = ([runs[seed]["seconds"] for seed in seeds] for runs in (arm, baseline))
    in_seconds = ratio(*seconds, limit=watched, baseline_limit=baseline_watched)
    return {
        "n_pairs": len(seeds),
        "steps_ratio": in_steps["ratio"],
        "bound": in_steps["bound"],
        "ci95": in_steps["ci95"],
        "p_value": paired_p_value(*steps, limit=cell["steps"]),
        "logrank_p_value": logrank_p_value(*steps, limit=cell["steps"]),
        "seconds_ratio": in_seconds["ratio"],
        "seconds_ci95": in_seconds["ci95"],
    }


def _difference(baseline: dict[int, dict[str, Any]], arm: dict[int, dict[str, Any]]) -> dict[str, Any]:
    """Mean over paired seeds of how much higher the arm's test accuracy is, and Student's interval."""
    gains = [run["test_accuracy"] - baseline[seed]["test_accuracy"] for seed, run in arm.items() if seed in baseline]
    if len(gains) < 2:
        return {"mean": float(gains[0]) if gains else None, "ci95": None}
    mean, half = _student(gains)
    return {"mean": mean, "ci95": [mean - half, mean + half]}


def _student(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its interval."""
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def _censored(values: Sequence[float | None], limit: Limit) -> np.ndarray:
    limits = np.broadcast_to(limit, len(values))
    return np.array([stop if value is None else value for value, stop in zip(values, limits, strict=True)], dtype=float)


def _mean(shares: Sequence[float]) -> dict[str, Any]:
    """Mean over seeds of numbers in [0, 1], and Student's interval cut off at these ends."""
    if len(shares) < 2:
        return {"mean": float(np.mean(shares)), "ci95": None}
    mean, half = _student(shares)
    return {"mean": mean, "ci95": [max(0.0, mean - half), min(1.0, mean + half)]}
