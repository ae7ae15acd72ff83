"""The convergence study at a glance: a line per cell, as a table and as a figure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.bar import NOT_RUN
from eval.cells import CONVERGENCE, EXPERT, REMEDIES
from eval.story import best
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report import figures
from mireg.ablation.report.summary import difference_key, final_key
from mireg.ablation.report.tables import markdown, of_rows
from mireg.ablation.report.text import difference_text, mean_text, ratio_text, speed_text
from mireg.ablation.study.config import Cell
from mireg.ablation.study.metric import Metric

CONTROL = "target-shuffled"
ELSE = tuple(
    dict.fromkeys((*REMEDIES, *(name for of in EXPERT.values() for name in of), "deep-supervision", "lbe", "muon"))
)
"""Alternatives to the term."""

ABOUT = (
    f"A line per cell: steps to the goal of `{BASELINE}` and `{TERM}`, median over seeds; the speed of `{TERM}`, "
    f"`{BASELINE}` being 1, with its 95% interval; how much better or worse it ends; the speed of the control, whose "
    "targets are shuffled; and the fastest of what one would do instead. Where a median never reaches the goal, the "
    "number of seeds that do stands instead of a speed. In P cells, which have no goal, speed is "
    f"the steps that `{BASELINE}` would need for the same end over those of the arm, and the alternative is the one "
    "that ends best. The data are Fashion-MNIST unless named."
)

COLUMNS = (
    "cell",
    f"`{BASELINE}` → `{TERM}`",
    "speed in steps",
    "in seconds",
    f"end, over `{BASELINE}`",
    "control: speed",
    "best alternative",
)


def table(summary: Mapping[str, Any]) -> list[str]:
    """The table of the cells that have been run, and the names of the others, as lines of Markdown."""
    found = {cell["cell"]: cell for cell in summary["cells"]}
    cells = [cell for cell in CONVERGENCE.cells if not cell.budget_of]
    body = [_row(cell, found[cell.name]) for cell in cells if cell.name in found]
    missing = ", ".join(cell.name for cell in cells if cell.name not in found)
    return [
        *markdown(of_rows(COLUMNS, body), "---"),
        *(["", f"Not run with the present method: {missing}."] * bool(missing)),
    ]


def _row(cell: Cell, found: dict[str, Any]) -> list[str]:
    network = _network(cell) + ("" if cell.dataset == "fashion-mnist" else f", {cell.dataset}")
    arms = found["arms"]
    term = arms.get(TERM, {})
    seconds = speed_of(found, term)[1]
    return [
        f"{cell.name}: {network}, {term.get('n_seeds', 0)} seeds",
        f"{_reached(found, BASELINE)} → {_reached(found, TERM)}",
        speed_words(found, term) if term else NOT_RUN,
        ratio_text(*seconds) if seconds else "",
        difference_text(found, term.get(difference_key(Metric.of(found)))),
        speed_words(found, arms[CONTROL]) if CONTROL in arms else NOT_RUN,
        _remedy(found),
    ]


def _reached(cell: dict[str, Any], arm: str) -> str:
    found = cell["arms"].get(arm)
    if found is None:
        return NOT_RUN
    if cell["target"] is None:
        return mean_text(cell, found[final_key(Metric.of(cell))])
    median = found["steps_to_target"]["median"]
    missed = found["n_seeds"] - found["n_reached"]
    few = f" ({found['n_reached']} of {found['n_seeds']})" if missed else ""
    return (f"not in {cell['budget_steps']:,}" if median is None else f"{median:,.0f}") + few


Ratio = tuple[float, Sequence[float] | None]
"""A speed and its interval."""


def speed_of(cell: Mapping[str, Any], arm: Mapping[str, Any]) -> tuple[Ratio | None, Ratio | None]:
    """Speed in steps and in seconds, to the goal or, without one, to the same final metric; None without any."""
    if saved := arm.get("steps_saved"):
        if saved["mean"] is None:
            return None, None
        speed, *edges = (1 / (1 - share) for share in (saved["mean"], *(saved["ci95"] or ())))
        seconds = saved["seconds_ratio"]
        return (speed, edges), None if seconds is None else (seconds, saved["seconds_ci95"])
    versus = arm.get("vs_none")
    if cell["target"] is None or not versus or versus["steps_ratio"] is None or versus["bound"]:
        return None, None
    return (versus["steps_ratio"], versus["ci95"]), (versus["seconds_ratio"], versus["seconds_ci95"])


def speed_words(cell: Mapping[str, Any], arm: Mapping[str, Any]) -> str:
    """The speed in steps, or how many seeds reach the goal."""
    if speed := speed_of(cell, arm)[0]:
        return ratio_text(*speed)
    return speed_text(arm.get("vs_none") or {})


def _remedy(cell: dict[str, Any]) -> str:
    """The alternative with the fewest median steps or, without a target, the best final metric."""
    metric, name = Metric.of(cell), best(cell, ELSE)
    if name is None:
        return NOT_RUN
    arm = cell["arms"][name]
    if cell["target"] is None:
        return f"`{name}`: {metric.show(arm[final_key(metric)]['mean'], 1)}"
    steps = arm["steps_to_target"]["median"]
    return "none gets there" if steps is None else f"`{name}`: {steps:,.0f}"


CAPTION = (
    f"Steps that `{BASELINE}` takes over those of the term (blue) and of the term with shuffled targets (orange), "
    "with 95% intervals: right of 1 is faster; in words, where one of the two never gets there in the median"
)

LIMITS = 0.25, 32
"""Speeds at the ends of the figure's axis."""


def draw(summary: Mapping[str, Any]) -> Figure:
    """Draw the speed of the term and of its control, a line per cell that has runs."""
    found = {cell["cell"]: cell for cell in summary["cells"]}
    cells = [cell for cell in CONVERGENCE.cells if not cell.budget_of and cell.name in found]
    figure = Figure(figsize=(8, 1 + 0.36 * len(cells)), layout="constrained")
    axes = figure.add_subplot()
    look = figures.lines((BASELINE, TERM, CONTROL))
    for place, cell in enumerate(cells):
        for offset, name in ((-0.16, TERM), (0.2, CONTROL)):
            if arm := found[cell.name]["arms"].get(name):
                _draw_speed(axes, place + offset, found[cell.name], arm, look[name]["color"])
    axes.axvline(1, color=look[BASELINE]["color"], linestyle=":", linewidth=1.2)
    axes.set_xscale("log", base=2)
    axes.set_xlim(*LIMITS)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}x")
    axes.set_yticks(range(len(cells)), [f"{cell.name} {_network(cell)}" for cell in cells])
    axes.set_ylim(len(cells) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=f"speed in steps, {BASELINE} being 1: the term in blue, with shuffled targets in orange")
    return figure


def _draw_speed(axes: Axes, height: float, cell: dict[str, Any], arm: Mapping[str, Any], colour: str) -> None:
    """Draw a speed with its interval; where there is none, write why."""
    speed, _ = speed_of(cell, arm)
    if speed is None:
        ends = difference_text(cell, arm.get(difference_key(Metric.of(cell))))
        text = (
            speed_words(cell, arm) or f"{'points' if Metric.of(cell).is_share else cell['metric']} at the end: {ends}"
        )
        axes.text(1.06, height, text, color=colour, fontsize=8, verticalalignment="center")
        return
    ratio, interval = speed
    axes.plot(interval or [], [height] * len(interval or []), color=colour, linewidth=2)
    axes.plot([ratio], [height], "o", color=colour, markersize=6)


def _network(cell: Cell) -> str:
    """The network of a cell: its depth and what is special about it."""
    options = {key: value for key, value in cell.model_options.items() if key not in ("width", "context") and value}
    return " ".join([cell.model, *(key if value is True else str(value) for key, value in options.items())])
