"""Learning rates, chosen for every arm of a cell alike from its tuning runs."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from mireg.ablation.config import RunSpec
from mireg.ablation.curves import to_target
from mireg.ablation.storage import read_json, write_json

RECORD = "tuning.json"
"""In a study's folder: by cell and arm, the rate that was chosen and what it was chosen from."""

Record = dict[str, dict[str, dict[str, Any]]]


def read_tuning(folder: Path) -> Record:
    """What was chosen so far; empty without tuning."""
    found = read_json(folder / RECORD)
    return found if isinstance(found, dict) else {}


def write_tuning(folder: Path, cell: str, arms: Mapping[str, dict[str, Any]]) -> None:
    """Add the choices of a cell's arms to those of the study."""
    record = read_tuning(folder)
    record[cell] = {**record.get(cell, {}), **arms}
    write_json(folder / RECORD, record)


def choose(results: Iterable[tuple[RunSpec, dict[str, Any] | None]]) -> dict[str, dict[str, Any]]:
    """The best learning rate of each arm: fewest median steps to the target.

    A miss is infinitely late. Ties go to the higher mean validation accuracy at the last evaluation, then to the
    smaller rate. A run that broke, or has no result, is a miss with an accuracy of 0.

    Args:
        results: of one cell's tuning runs.

    Returns:
        By arm, the rate as ``lr``, and as ``tried``, by rate, ``steps`` to the target (None for a miss) and
        ``accuracy`` of the runs in the order of ``results``.
    """
    tried: dict[str, dict[str, dict[str, list[Any]]]] = {}
    for spec, result in results:
        runs = tried.setdefault(spec.arm, {}).setdefault(repr(spec.lr), {"steps": [], "accuracy": []})
        broke = result is None or result["failure"] is not None
        curve = [] if result is None or broke else result["curve"]
        reached = to_target(curve, spec.cell.target)
        runs["steps"].append(reached and reached["step"])
        runs["accuracy"].append(curve[-1]["validation_accuracy"] if curve else 0.0)

    def badness(item: tuple[str, dict[str, list[Any]]]) -> tuple[float, float, float]:
        lr, runs = item
        steps = statistics.median(math.inf if step is None else step for step in runs["steps"])
        return steps, -statistics.mean(runs["accuracy"]), float(lr)

    return {arm: {"lr": float(min(rates.items(), key=badness)[0]), "tried": rates} for arm, rates in tried.items()}
