"""Show the estimates as a figure and as tables."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from rich.console import Console
from rich.table import Table

from eval.truth.contenders import SAMPLES
from mireg.ablation.report.tables import markdown, of_rows


def draw_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Draw the bias of every MI estimator on every task at n = 5000, as a coloured table."""
    large = [row for row in rows if row["n"] == SAMPLES and row["bias"] is not None]
    names = list(dict.fromkeys(row["task"] for row in large))
    labels = list(dict.fromkeys(row["estimator"] for row in large))
    bias, weight = np.full((len(names), len(labels)), np.nan), {}
    for row in large:
        place = names.index(row["task"]), labels.index(row["estimator"])
        bias[place], weight[place] = row["bias"], "bold" if row["recommended"] else "normal"
    figure = Figure(figsize=(9, 0.28 * len(names) + 1.5), layout="constrained")
    axes = figure.add_subplot()
    image = axes.imshow(bias, cmap="RdBu_r", vmin=-0.5, vmax=0.5, aspect="auto")
    for (i, j), value in np.ndenumerate(bias):
        color = "w" if abs(value) > 0.3 else "k"
        axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=7, color=color, weight=weight.get((i, j)))
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"Bias in nats, n = {SAMPLES}, mean over {large[0]['seeds']} seeds; bold: recommended", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.5, extend="both")
    return figure


def card(rows: Sequence[dict[str, Any]]) -> list[str]:
    """The table of an estimator's card, as lines of Markdown: a task a row, its largest samples first; and the cost."""
    sizes = sorted({row["n"] for row in rows}, reverse=True)
    of = {(row["task"], row["n"]): row for row in rows}
    body = [
        [task, f"{true:.3f}", *(cell(of[task, n]) if (task, n) in of else "" for n in sizes)]
        for task, true in {row["task"]: row["true"] for row in rows}.items()
    ]
    cost = "; ".join(f"n = {n}: {1000 * median(row['seconds'] for row in rows if row['n'] == n):.3g}" for n in sizes)
    head, line, *lines = markdown(of_rows(("task", "true MI", *(f"n = {n}" for n in sizes)), body), " ---: ")
    return [
        *(head, line.replace("|---|", "| --- |"), *lines),
        "",
        f"Median milliseconds for one estimate without gradient, one thread: {cost}.",
    ]


def cell(row: dict[str, Any]) -> str:
    """Bias and standard deviation; the mean where there is no true value of what is estimated."""
    value = f"{row['mean']:.3f}" if row["bias"] is None else f"{row['bias']:+.3f}"
    return f"{value} ({row['std']:.3f})"


def print_tables(rows: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]], console: Console) -> None:
    """Print the whole table, then the claims."""
    table = Table("task", "n", "estimator", title="Estimates of known mutual information, in nats")
    for column in ("true", "mean", "bias", "std", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        bias = row["measures"] if row["bias"] is None else f"{row['bias']:+.3f}"
        star = "*" if row["recommended"] else ""
        numbers = (f"{row['true']:.3f}", f"{row['mean']:.3f}", bias, f"{row['std']:.3f}", f"{row['seconds']:.3f}")
        table.add_row(row["task"], str(row["n"]), row["estimator"] + star, *numbers)
    console.print(table, "* recommended by mireg.measure")
    for claim in claims:
        held = "holds" if claim["holds"] else f"FAILS on {', '.join(claim['failed'])}"
        if claim.get("at_null_floor"):
            held += f", at its null floor on {', '.join(claim['at_null_floor'])}"
        console.print(f"{claim['claim']}: {held} (worst {claim['worst_bias']:+.3f}, {claim['worst_task']})")
