"""Choose learning rates in the same way for every arm of a cell."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable
from typing import Any

from mireg.ablation.study.config import RunSpec
from mireg.ablation.study.metric import Metric, to_target


def choose(results: Iterable[tuple[RunSpec, dict[str, Any] | None]]) -> dict[str, dict[str, Any]]:
    """Choose the best learning rate of each arm: the fewest median steps to the target.

    A miss counts as infinitely many steps. Ties are broken by the better mean of the validation metric at the last
    evaluation, then by the smaller rate. A run that diverged, or has no result, is a miss, with an accuracy of 0, or
    None for another metric.

    Returns:
        For each arm of the cell, the chosen rate as ``lr``, and under ``tried``, for each rate, ``steps`` to the target
        (None for a miss) and the metric (such as ``accuracy``) of the runs in the order of ``results``.
    """
    tried: dict[str, dict[str, dict[str, list[Any]]]] = {}
    metric = Metric()
    for spec, result in results:
        metric = spec.cell.measured
        runs = tried.setdefault(spec.arm, {}).setdefault(repr(spec.lr), {"steps": [], metric.name: []})
        broke = result is None or result["failure"] is not None
        curve = [] if result is None or broke else result["curve"]
        reached = to_target(curve, spec.cell.target, metric)
        runs["steps"].append(reached and reached["step"])
        worst = metric.worst if math.isfinite(metric.worst) else None
        runs[metric.name].append(curve[-1][metric.validation] if curve else worst)

    def badness(item: tuple[str, dict[str, list[Any]]]) -> tuple[float, float, float]:
        lr, runs = item
        steps = statistics.median(math.inf if step is None else step for step in runs["steps"])
        last = statistics.mean(metric.worst if value is None else value for value in runs[metric.name])
        return steps, -metric.gain(last), float(lr)

    return {arm: {"lr": float(min(rates.items(), key=badness)[0]), "tried": rates} for arm, rates in tried.items()}
