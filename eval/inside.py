"""Evaluate the information planes of a finished study: information by layer, and what predicts a gain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.figures import STYLE
from mireg.ablation.report.results import load_results
from mireg.ablation.report.summary import summarise
from mireg.ablation.storage.files import read_json
from mireg.ablation.storage.plane import has_plane, looked_at, nats, step_colour

SHOWN = ("R1", "R3", "H1", "H4")
"""Two networks to rescue and two that train well."""

Results = Sequence[Mapping[str, Any]]


def read(folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Read the summary and runs of a study's folder or archive."""
    results = load_results(folder)
    study = read_json(folder / "study.json") or {"study": folder.name, "arms": []}
    return summarise(study["study"], results, study["arms"]), results


def missing_information(results: Results, cell: str) -> float | None:
    """Information about the target in the input minus that in the last layer of the untrained network.

    Returns:
        The median over seeds in nats; None if no run of the baseline measured it.
    """
    found = []
    for run in results:
        plane = run["curve"][0].get("plane") if run["curve"] else None
        if run["cell"] == cell and run["arm"] == BASELINE and plane:
            known = plane["target"]
            if known[0] is not None and known[-1] is not None:
                found.append(known[0] - known[-1])
    return float(np.median(found)) if found else None


def speed(cell: Mapping[str, Any]) -> float | None:
    """Speed of the term to the target or, without one, to the same final metric; a miss counts as the budget."""
    arm = cell["arms"].get(TERM, {})
    if saved := arm.get("steps_saved"):
        return None if saved["mean"] is None else 1 / (1 - float(saved["mean"]))
    found = (arm.get("vs_none") or {}).get("steps_ratio")
    return None if found is None else float(found)


def over_cells(summary: Mapping[str, Any], results: Results) -> dict[str, Any]:
    """Whether missing information at initialisation predicts the term's speed: Spearman's rank correlation.

    Returns:
        Both numbers by cell; ``spearman`` and ``p_value``, None with fewer than 3 cells; and the number of ``cells``.
    """
    table = {
        cell["cell"]: {"missing_nats": missing, "speed": ratio}
        for cell in summary["cells"]
        if (missing := missing_information(results, cell["cell"])) is not None and (ratio := speed(cell)) is not None
    }
    columns = [[row[key] for row in table.values()] for key in ("missing_nats", "speed")]
    spread = all(len(set(column)) > 1 for column in columns)
    test = stats.spearmanr(*columns) if len(table) >= 3 and spread else None
    return {
        "by_cell": table,
        "cells": len(table),
        "spearman": float(test.statistic) if test else None,
        "p_value": float(test.pvalue) if test else None,
    }


def sentence(found: Mapping[str, Any]) -> str:
    """Describe the correlation in a sentence."""
    if found["spearman"] is None:
        return f"Missing information at initialisation and speed: {found['cells']} cells are too few for a correlation."
    return (
        "Missing information at initialisation (what the input tells about the target less what the last layer tells) "
        f"and the speed of `{TERM}`: Spearman's rank correlation {found['spearman']:.2f} over n = {found['cells']} "
        f"cells (p = {found['p_value']:.2g})."
    )


def has_layers(results: Results, cell: str) -> bool:
    """Whether runs with and without the term measured the layers of a cell."""
    return all(_seeds(results, cell, arm) for arm in (BASELINE, TERM))


def _seeds(results: Results, cell: str, arm: str) -> list[Mapping[str, Any]]:
    """Curves of the runs that measured the plane."""
    return [run["curve"] for run in results if run["cell"] == cell and run["arm"] == arm and has_plane(run["curve"])]


def draw_layers(results: Results, cells: Sequence[str] = SHOWN) -> Figure:
    """Draw information about the target by layer, a column per cell, without the term above and with it below.

    Colours are steps; lines are medians over seeds.
    """
    cells = [cell for cell in cells if has_layers(results, cell)]
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(0.6 + 3.0 * len(cells), 5.2), dpi=110, layout="constrained")
        grid = figure.subplots(2, len(cells), sharex="col", sharey="col", squeeze=False)
        for column, cell in enumerate(cells):
            for row, arm in enumerate((BASELINE, TERM)):
                axes = grid[row, column]
                curves = _seeds(results, cell, arm)
                looked = _by_step(curves)
                for index, (step, layers) in enumerate(looked.items()):
                    colour = step_colour(index, len(looked))
                    axes.plot(range(len(layers)), layers, marker=".", markersize=4, color=colour, label=f"{step:,}")
                axes.set_title(f"{cell}: {arm}, {len(curves)} seeds")
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                if column == 0:
                    axes.set_ylabel("about the target, nats")
            grid[1, column].set_xlabel("layer, 0 the input")
            bottom, top = grid[0, column].get_ylim()
            grid[0, column].set_ylim(bottom, top + 0.45 * (top - bottom))  # room for the legend above the lines
            grid[0, column].legend(title="step", fontsize=7, title_fontsize=7, ncols=4, loc="upper center")
        return figure


def _by_step(curves: Sequence[Any]) -> dict[int, np.ndarray]:
    """Median over seeds of each layer's information about the target, by step."""
    found: dict[int, list[list[float]]] = {}
    for curve in curves:
        for point in looked_at(curve):
            found.setdefault(point["step"], []).append(nats(point, "target"))
    return {step: np.median(layers, axis=0) for step, layers in sorted(found.items())}
