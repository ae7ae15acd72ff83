"""The page of the convergence study: an overview by cell, the bar, the figures and the tables."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure
from PIL import Image

from eval import forecast, overview, saved, story
from eval.bar import MET, NOT_MET, NOT_RUN, UNDEFINED, lines
from eval.cells import CONVERGENCE
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report import figures, tables
from mireg.ablation.report.tables import markdown, of_rows
from mireg.ablation.storage.files import write_bytes
from mireg.ablation.study.config import Cell


def judged(summary: Mapping[str, Any]) -> dict[str, Any]:
    """A summary of the cells that have runs of the term; the others of an archive wait for it."""
    cells = [cell for cell in summary["cells"] if TERM in cell["arms"]]
    names = {cell["cell"] for cell in cells}
    chosen = {key: {cell: of for cell, of in summary.get(key, {}).items() if cell.partition("-")[0] in names}
              for key in ("tuning", "tuned")}  # fmt: skip
    return {**summary, "cells": cells, **chosen}


def blocks(
    summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]], pictures: str, shares: Mapping[str, float]
) -> dict[str, str]:
    """Format what stands between the markers of the pages, as Markdown: story, overview, bar, tables.

    Args:
        summary: summary of the study, :func:`judged`.
        results: results of its runs.
        pictures: the folder of :func:`write_pictures`, relative to the page.
        shares: by cell, what :func:`eval.forecast.lost` found.
    """
    speed, *others = ([f"![{caption}]({pictures}/{name})", "", f"{caption}."] for name, caption in _pictures(summary))
    text = ["### Figures", ""]
    for picture in others:
        text += [*picture, ""]
    if rows := saved.table(summary):
        text += ["### Steps saved", "", saved.ABOUT, "", *markdown(rows), ""]
    text += ["### Commands of the cells", "", COMMANDS, "", *(f"    {command}" for command in commands(summary)), ""]
    return {
        "story": story.block(summary),
        "short": story.block(summary, story.SHORT),
        "overview": "\n".join([overview.ABOUT, "", *overview.table(summary), "", *speed]),
        "bar": "\n".join(_bar(summary, results)),
        "forecast": forecast.block(shares, summary),
        "tables": "\n".join([*text, tables(dict(summary), level=3)]),
    }


def _bar(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = lines(summary, results)
    order = (MET, NOT_MET, NOT_RUN, UNDEFINED)
    counts = ", ".join(f"{n} {status}" for status in order if (n := sum(line.status == status for line in found)))
    about = (
        f"What had to be shown, written down before the runs: {counts}. A line that requires a gain is met "
        "if the whole 95% interval is on the right side of it, not the median alone; a control, which must "
        "gain nothing, if the interval reaches no gain. Lines in seconds are of runs beside other work and say little: "
        "cost per step is judged on [its own page](cost.md)."
    )
    apart: dict[tuple[str, ...], list[str]] = {}
    for line in found:
        own = "" if line.status == NOT_RUN else line.cell
        apart.setdefault((line.required, line.measured, line.status, own), []).append(line.cell)
    body = [[", ".join(cells), required, measured, f"**{status}**" if status == NOT_MET else status]
            for (required, measured, status, _), cells in apart.items()]  # fmt: skip
    return [about, "", *markdown(of_rows(("cell", "required", "measured", ""), body), "---")]


COMMANDS = (
    "What each cell got. A command repeats the runs of its cell, those of tuning included, unless it gives a rate; a P "
    "cell's includes the shorter schedules."
)


def commands(summary: Mapping[str, Any]) -> list[str]:
    """The commands that repeat the runs of a study: one for each cell and number of seeds."""
    found = {cell["cell"]: cell for cell in summary["cells"]}
    return [
        _command(cell, found[cell.name], seeds, cell.name in summary.get("tuned", {}))
        for cell in CONVERGENCE.cells
        if not cell.budget_of and cell.name in found
        for seeds in sorted({arm["n_seeds"] for arm in found[cell.name]["arms"].values()}, reverse=True)
    ]


def _command(cell: Cell, found: Mapping[str, Any], seeds: int, tuned: bool) -> str:
    arms = {name: arm for name, arm in found["arms"].items() if arm["n_seeds"] == seeds}
    words = ["python train.py --preset", CONVERGENCE.name, "--cells", cell.name, "--arms", *arms, f"--seeds {seeds}"]
    if found["budget_steps"] != cell.steps:
        words.append(f"--steps {found['budget_steps']}")
    if not tuned:
        words += [f"--lr {rate:g}" for rate in sorted({arm["lr"] for arm in arms.values()})]
    return " ".join(words)


def _pictures(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The figures for which there are data, with their captions."""
    cells = summary["cells"]
    found = [
        ("speed.png", overview.CAPTION),
    ]
    found += [(chart, f"{cell['cell']}, by step: median over seeds, band from the lowest to the highest")
              for cell in cells if (chart := figures.picture(cell))]  # fmt: skip
    if any(arm.get("steps_saved", {}).get("ci95") for cell in cells for arm in cell["arms"].values()):
        found.append(("saved.png", f"Steps saved at the end of a schedule, in per cent of those of `{BASELINE}`, with 95% intervals"))  # fmt: skip  # noqa: E501
    return found


def write_pictures(folder: Path, summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Draw the figures of the page into a folder, in place of those that are there."""
    cells = summary["cells"]
    look = figures.lines(list(dict.fromkeys(arm for cell in cells for arm in cell["arms"])))
    wanted = {name for name, _ in _pictures(summary)}
    for old in [*folder.glob("*.png"), *folder.glob(f"{figures.FOLDER}/*.png")]:
        old.unlink()
    with mpl.rc_context(figures.STYLE | dict.fromkeys(figures.INKED, figures.GREY)):  # legible on white and on black
        _save(folder / "speed.png", overview.draw(summary))
        if "saved.png" in wanted:
            _save(folder / "saved.png", _saved_figure(cells, look))
        for cell in cells:
            chart = figures.cell_charts(cell, figures.runs_of(cell, results), look)[0]
            figure = Figure(figsize=chart.size, layout="constrained")
            chart.draw(figure)
            _save(folder / figures.picture(cell), figure)


def _saved_figure(cells: Sequence[dict[str, Any]], look: Mapping[str, figures.Line]) -> Figure:
    rows = [
        (cell["cell"], name, found)
        for cell in cells
        for name, arm in cell["arms"].items()
        if (found := arm.get("steps_saved", {})).get("ci95")
    ]
    figure = Figure(figsize=(7, 0.9 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, name, found) in enumerate(rows):
        low, high = (100 * max(-1.0, edge) for edge in found["ci95"])
        axes.plot([low, high], [place, place], color=look[name]["color"], linewidth=2)
        axes.plot([100 * max(-1.0, found["mean"])], [place], "o", color=look[name]["color"], markersize=5)
    axes.axvline(0, color="#888888", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [f"{cell}: {name}" for cell, name, _ in rows])
    axes.set_ylim(len(rows) - 0.5, -0.5)
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=f"steps saved, % of those of {BASELINE} (cut off at -100)")
    return figure


def _save(path: Path, figure: Figure) -> None:
    buffer, small = io.BytesIO(), io.BytesIO()
    figure.savefig(buffer, format="png", dpi=140, transparent=True)
    # A palette looks the same, and takes a quarter of the bytes.
    Image.open(buffer).quantize(256, Image.Quantize.FASTOCTREE).save(small, "png", optimize=True)
    write_bytes(path, small.getvalue())


def relative(folder: Path, page: Path) -> str:
    """The path of a folder relative to a page."""
    return Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix()
