"""The summary, the table and the HTML report of a study, rebuilt from the runs in its folder.

python -m eval.report DIR
"""

from __future__ import annotations

import argparse
import base64
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from jinja2 import Environment, FileSystemLoader
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from eval.convergence import load_results, summarise
from mireg.ablation.config import BASELINE
from mireg.ablation.storage import read_json, write_bytes, write_json

COLOURS = ["#7f7f7f", "#1f77b4", "#ff7f0e", "#2ca02c", "#d62728", "#9467bd", "#8c564b", "#e377c2", "#17becf"]
"""Of the arms in order; the baseline comes first and is grey. They hold on white and on black."""


def write(folder: Path) -> dict[str, Any]:
    """Write ``summary.json``, ``report.html`` and ``curves.png`` into a study's folder.

    Returns:
        The summary.

    Raises:
        FileNotFoundError: if the folder holds no finished run.
    """
    results = load_results(folder)
    study = read_json(folder / "study.json") or {"study": folder.name, "arms": []}
    summary = summarise(study["study"], results, study["arms"])
    write_json(folder / "summary.json", summary)
    figures = {cell["cell"]: draw_cell(cell, results) for cell in summary["cells"]}
    for index, figure in enumerate(figures.values()):
        if index == 0:
            write_bytes(folder / "curves.png", as_bytes(figure, "png"))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        header=HEADER,
        rows={cell["cell"]: list(rows(cell)) for cell in summary["cells"]},
        verdicts={cell["cell"]: verdicts(cell) for cell in summary["cells"]},
        figures={name: base64.b64encode(as_bytes(figure, "svg")).decode() for name, figure in figures.items()},
        settings={cell["cell"]: _settings(cell["cell"], results) for cell in summary["cells"]},
    )
    write_bytes(folder / "report.html", page.encode())
    for figure in figures.values():
        plt.close(figure)
    return summary


HEADER = (
    "arm",
    "reached",
    "steps to target",
    "ratio to none",
    "p",
    "seconds",
    "ratio",
    "test accuracy",
    "ms/step",
    "lr",
)


def rows(cell: dict[str, Any]) -> list[tuple[str, ...]]:
    """The table of a cell as text, a row per arm."""
    table = []
    for name, arm in cell["arms"].items():
        versus = arm.get("vs_none") or {}
        table.append(
            (
                name,
                f"{arm['n_reached']}/{arm['n_seeds']}" + (f" ({arm['n_failed']} broke)" if arm["n_failed"] else ""),
                _number(arm["steps_to_target"]["median"], "never", ".0f"),
                _ratio(versus.get("steps_ratio"), versus.get("bound"), versus.get("ci95")),
                _number(versus.get("p_value"), "", ".3f"),
                _number(arm["seconds_to_target"]["median"], "never", ".1f"),
                _ratio(versus.get("seconds_ratio"), versus.get("bound"), None),
                _accuracy(arm["final_accuracy"]),
                _number(arm["step_ms"], "", ".1f"),
                f"{arm['lr']:g}",
            )
        )
    return table


def verdicts(cell: dict[str, Any]) -> list[str]:
    """A sentence per arm: whether it got to the target sooner than the baseline, and how sure that is."""
    sentences = []
    for name, arm in cell["arms"].items():
        versus = arm.get("vs_none")
        if not versus:
            continue
        median = _number(arm["steps_to_target"]["median"], "no median", ".0f")
        reached = f"{name} reached {cell['target']:.0%} on {arm['n_reached']} of {arm['n_seeds']} seeds"
        if versus["steps_ratio"] is None:
            sentences.append(
                f"{reached}: at the median neither it nor {BASELINE} got there in {cell['budget_steps']} steps."
            )
            continue
        low, high = versus["ci95"] or (None, None)
        sure = "one seed says little" if low is None else f"95% interval {low:.2f} to {high:.2f}"
        verdict = "no difference shown"
        if low is not None and low > 1:
            verdict = "faster"
        elif low is not None and high < 1:
            verdict = "slower"
        factor = _ratio(versus["steps_ratio"], versus["bound"], None)
        sentences.append(f"{reached} (median {median} steps), {factor} the speed of {BASELINE} ({sure}): {verdict}.")
    return sentences


def print_table(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of all cells."""
    for cell in summary["cells"]:
        title = f"{cell['cell']}: {cell['target']:.0%} validation accuracy within {cell['budget_steps']} steps"
        table = Table(*HEADER, title=title)
        for row in rows(cell):
            table.add_row(*row)
        console.print(table)
        for sentence in verdicts(cell):
            console.print(sentence, highlight=False)


def draw_cell(cell: dict[str, Any], results: Sequence[dict[str, Any]]) -> Figure:
    """Accuracy of all arms by step (median, and the range over seeds), and the smallest MI of a pair."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
    for index, (name, arm) in enumerate(cell["arms"].items()):
        curves = [r["curve"] for r in results if r["cell"] == cell["cell"] and r["arm"] == name]
        colour = COLOURS[index % len(COLOURS)]
        label = f"{name} ({arm['n_reached']}/{arm['n_seeds']} reach it)"
        _band(left, [[(p["step"], p["validation_accuracy"]) for p in curve] for curve in curves], colour, label)
        _band(right, [[(p["step"], min(p["mi"].values())) for p in curve] for curve in curves], colour, name)
    left.axhline(cell["target"], color="#888888", linestyle=":", linewidth=1)
    left.set(
        title=f"{cell['cell']}: validation accuracy, dotted: target", xlabel="step", ylabel="accuracy", ylim=(0, 1)
    )
    right.set(title="the weakest link: smallest MI of a successive pair", xlabel="step", ylabel="nats")
    for axes in (left, right):
        axes.grid(alpha=0.25)
        axes.legend(frameon=False)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def as_bytes(figure: Figure, kind: str) -> bytes:
    """A figure as an image file."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=110)
    return buffer.getvalue()


def _band(axes: Axes, curves: list[list[tuple[float, float]]], colour: str, label: str) -> None:
    length = max(len(curve) for curve in curves)
    steps = next([step for step, _ in curve] for curve in curves if len(curve) == length)
    values = np.full((len(curves), length), np.nan)
    for row, curve in zip(values, curves, strict=True):
        row[: len(curve)] = [value for _, value in curve]
    axes.plot(steps, np.nanmedian(values, axis=0), color=colour, label=label)
    axes.fill_between(steps, np.nanmin(values, axis=0), np.nanmax(values, axis=0), color=colour, alpha=0.2, linewidth=0)


def _settings(cell: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spec = next(result["spec"] for result in results if result["cell"] == cell)
    return {**spec["cell"], **{f"term {key}": value for key, value in spec["term"].items()}}


def _number(value: float | None, missing: str, form: str) -> str:
    return missing if value is None else format(value, form)


def _ratio(value: float | None, bound: str | None, interval: Sequence[float] | None) -> str:
    if value is None:
        return ""
    sign = {"at least": "≥", "at most": "≤", None: ""}[bound]
    return f"{sign}{value:.1f}x" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def _accuracy(value: dict[str, Any]) -> str:
    mean, interval = value["mean"], value["ci95"]
    return f"{mean:.1%}" if interval is None else f"{mean:.1%} ± {(interval[1] - interval[0]) / 2:.1%}"


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Rebuild a study's summary and report.")
    parser.add_argument("folder", type=Path, help="the study's folder, as given to train.py --out")
    folder = parser.parse_args().folder
    try:
        summary = write(folder)
    except (FileNotFoundError, PermissionError) as error:
        print(f"eval.report: {error}", file=sys.stderr)
        return 2
    print_table(summary, Console())
    print(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
