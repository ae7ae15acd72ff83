"""Charts of a study: learning curves, survival, performance profile, final accuracy, cost and MI."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.statistics import performance_profile
from mireg.ablation.report.text import metric_name
from mireg.ablation.storage.plane import fill_planes, has_plane
from mireg.ablation.study.metric import Metric, to_target

COLOURS = ("#808080", "#2f7fd1", "#e07b00", "#1f9e62", "#d1495b", "#8d6bd1", "#b5771a", "#d357a5", "#0fa3b1")
"""Colours of the arms in order; only the baseline, the first, is grey. All are legible on white and on black."""

DASHES = ("", "5 2", "1.5 1.5")
"""Dashes (in SVG notation) of the first, second and third arm with the same colour."""

INK = "#010203"
"""Placeholder for the page's own text colour in embedded figures."""

PLANE = "Information plane"
"""How the caption of the wide figure begins."""

POINTS = 72
"""Approximate number of points per curve in the page; the results have all of them."""

STYLE: dict[Any, Any] = {
    "font.family": "sans-serif",
    "font.size": 10,
    "axes.titlesize": 11,
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.6,
    "legend.frameon": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "mireg",
}

ON_PAGE: dict[Any, Any] = dict.fromkeys(
    ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK
) | {"grid.color": INK}


WIDE = 20
"""Highest over lowest value of a metric from which its axis is logarithmic: a loss that starts far above its end would
flatten all curves."""


@dataclass(frozen=True)
class Line:
    """Line style of an arm, the same in every chart."""

    colour: str
    dash: str

    @property
    def options(self) -> dict[str, Any]:
        """Options for matplotlib."""
        return {"color": self.colour, "linestyle": (0, [float(x) for x in self.dash.split()]) if self.dash else "-"}


def lines(arms: Sequence[str]) -> dict[str, Line]:
    """Choose a line style for each arm."""
    baseline, *others = COLOURS
    look = {arm: Line(baseline, "") for arm in arms[:1]}
    for index, arm in enumerate(arms[1:]):
        look[arm] = Line(others[index % len(others)], DASHES[index // len(others) % len(DASHES)])
    return look


Runs = dict[str, list[dict[str, Any]]]
"""Results of a cell's runs, by arm."""


def cell_figures(cell: dict[str, Any], runs: Runs, look: dict[str, Line]) -> dict[str, str]:
    """The charts of a cell, as SVG by caption; without MI charts if the runs have no MI, as in an archive."""
    metric, timed = Metric.of(cell), cell["target"] is not None
    dotted = ", target dotted" if timed else ""
    survival = (
        {
            "Share of the seeds that have reached the target, by step": _svg(
                lambda axes: _survival(axes, cell, runs, look)
            )
        }
        if timed
        else {}
    )
    quantity = "information of a layer about the target" if _about_target(runs) else "MI of a successive pair"
    order = "layer" if _about_target(runs) else "successive pair"
    of_information = (
        {
            f"Smallest {quantity}, by step: the weakest link": _svg(lambda axes: draw_weakest_link(axes, runs, look)),
            f"{quantity[0].upper()}{quantity[1:]} after the last step, from the input to the output": _svg(
                lambda axes: _flow(axes, runs, look, order)
            ),
        }
        if has_information(runs)
        else {}
    )
    planes = planes_of(cell, runs)
    of_plane = {}
    if planes:
        layers = "each layer a point, the last one larger; dashed, what the input tells about the target"
        of_plane[f"{PLANE} over training: {layers}"] = _svg_figure(
            partial(fill_planes, curves=planes), (1 + 3.4 * len(planes), 3.2)
        )
    return {
        f"Validation {cell['metric']} by step: median over seeds, band from the lowest to the highest{dotted}": _svg(
            lambda axes: draw_metric(axes, cell, runs, look)
        ),
        **survival,
        **of_information,
        **of_plane,
        f"{metric_name(cell).capitalize()} after the last step: a dot per seed, a bar at the median": _svg(
            lambda axes: _dots(axes, {arm: [r[metric.final] for r in of] for arm, of in runs.items()}, look),
            rows=len(runs),
        ),
        "Cost: milliseconds per training step, a dot per seed, a bar at the median": _svg(
            lambda axes: _dots(axes, {arm: [step_ms(r) for r in of] for arm, of in runs.items()}, look, start=0.0),
            rows=len(runs),
        ),
    }


def planes_of(cell: dict[str, Any], runs: Runs) -> dict[str, list[dict[str, Any]]]:
    """Curves, by title, of the first seed for which both the baseline and the term have an information plane.

    If only one of them has information planes, its first seed.
    """
    looked = {
        arm: {run["seed"]: run["curve"] for run in runs.get(arm, []) if has_plane(run["curve"])}
        for arm in (BASELINE, TERM)
    }
    looked = {arm: of for arm, of in looked.items() if of}
    common = sorted(set.intersection(*map(set, looked.values()))) if looked else []
    return {f"{cell['cell']}: {arm}, seed {common[0]}": of[common[0]] for arm, of in looked.items() if common}


def profile_figure(summary: dict[str, Any], look: dict[str, Line]) -> str:
    """The performance profile over the cells, as SVG."""
    return _svg(lambda axes: draw_profile(axes, summary["cells"], look))


def draw_profile(axes: Axes, cells: Sequence[dict[str, Any]], look: dict[str, Line]) -> None:
    """Draw the performance profile over cells of a summary."""
    profile = performance_profile(cells)
    end = 1.25 * max([r for ratios in profile.values() for r in ratios if np.isfinite(r)], default=1.0)
    for arm, ratios in profile.items():
        solved = [r for r in ratios if np.isfinite(r)]
        share = np.arange(len(solved) + 1) / len(ratios)
        axes.step([1, *solved, end], [0, *share[1:], share[-1]], where="post", label=arm, **look[arm].options)
    axes.set_xscale("log", subs=[])
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set(
        xlabel="steps to target, over the fastest arm's",
        ylabel="share of cells",
        ylim=(-0.02, 1.04),
        xlim=(0.97, end),
    )


def curves_png(cells: Sequence[dict[str, Any]], runs: dict[str, Runs], look: dict[str, Line]) -> bytes:
    """The metric by step of every cell, as PNG on white; for a single cell with MI, also the weakest link.

    Args:
        cells: cells of a summary.
        runs: runs by cell.
        look: line styles of the arms.
    """
    first = runs[cells[0]["cell"]]
    panels: list[Callable[[Axes], None]] = [
        partial(_learning, cell=cell, runs=runs[cell["cell"]], look=look) for cell in cells
    ]
    if len(cells) == 1 and has_information(first):
        panels.append(partial(_links, runs=first, look=look))
    columns = min(len(panels), 2)
    rows = math.ceil(len(panels) / columns)
    arms = list(dict.fromkeys(arm for cell in cells for arm in cell["arms"]))
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(10, 0.8 + 3.2 * rows), layout="constrained")
        grid = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes, panel in zip(grid, panels, strict=False):
            panel(axes)
        for axes in grid[len(panels) :]:
            axes.remove()
        handles = [Line2D([], [], **look[arm].options) for arm in arms]
        labels = [_reached(arm, cells[0]) for arm in arms] if len(cells) == 1 else arms
        figure.legend(handles, labels, loc="outside lower center", ncols=3 if len(cells) == 1 else 5)
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=160 if rows == 1 else 100)
        return buffer.getvalue()


def _reached(arm: str, cell: dict[str, Any]) -> str:
    found = cell["arms"][arm]
    if cell["target"] is None:
        return arm
    return f"{arm}  ({found['n_reached']} of {found['n_seeds']} seeds reach it)"


def _learning(axes: Axes, cell: dict[str, Any], runs: Runs, look: dict[str, Line]) -> None:
    draw_metric(axes, cell, runs, look)
    dotted = "" if cell["target"] is None else f" (dotted: target {Metric.of(cell).show(cell['target'])})"
    axes.set_title(f"{cell['cell']}: validation {cell['metric']}{dotted}")


def _links(axes: Axes, runs: Runs, look: dict[str, Line]) -> None:
    draw_weakest_link(axes, runs, look)
    axes.set_title("Smallest MI between successive layers")


def has_information(runs: Runs) -> bool:
    """Whether any of the runs measured MI."""
    return bool(_informed(runs))


def _about_target(runs: Runs) -> bool:
    """Whether the runs measured the layers' information about the target, as custom loops do."""
    return any(key.endswith("→target") for of in runs.values() for run in of for key in run["curve"][-1].get("mi", {}))


def _informed(runs: Runs) -> Runs:
    """The arms whose runs all measured MI up to their end."""
    return {arm: of for arm, of in runs.items() if all(point.get("mi") for run in of for point in run["curve"])}


def draw_metric(axes: Axes, cell: dict[str, Any], runs: Runs, look: dict[str, Line]) -> None:
    """Draw the validation metric by step."""
    metric = Metric.of(cell)
    for arm, of_arm in runs.items():
        _band(axes, [[(p["step"], p[metric.validation]) for p in r["curve"]] for r in of_arm], look[arm])
    if cell["target"] is not None:
        axes.axhline(cell["target"], color="#888888", linestyle=":", linewidth=1.2)
    axes.set(xlabel="training step", ylabel=metric.name)
    if metric.is_share:
        axes.set_ylim(0, 1)
    elif axes.dataLim.ymin > 0 and axes.dataLim.ymax > WIDE * axes.dataLim.ymin:
        axes.set_yscale("log")


def draw_weakest_link(axes: Axes, runs: Runs, look: dict[str, Line]) -> None:
    """Draw the smallest MI of a pair by step."""
    for arm, of_arm in _informed(runs).items():
        _band(
            axes, [[(p["step"], min(p["mi"].values(), default=np.nan)) for p in r["curve"]] for r in of_arm], look[arm]
        )
    axes.set(xlabel="training step", ylabel="nats")
    axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))


def step_ms(run: dict[str, Any]) -> float:
    """Median step time over the run; NaN if no step was timed."""
    times = [point["step_ms"] for point in run["curve"] if point["step_ms"] is not None]
    return float(np.median(times)) if times else float("nan")


def _survival(axes: Axes, cell: dict[str, Any], runs: Runs, look: dict[str, Line]) -> None:
    for arm, of_arm in runs.items():
        points = [to_target(run["curve"], cell["target"], Metric.of(cell)) for run in of_arm]
        steps = sorted(point["step"] for point in points if point is not None)
        share = np.arange(len(steps) + 1) / len(of_arm)
        axes.step([0, *steps, cell["budget_steps"]], [0, *share[1:], share[-1]], where="post", **look[arm].options)
    axes.set(xlabel="training step", ylabel="share of seeds", ylim=(-0.02, 1.04), xlim=(0, cell["budget_steps"]))


def _flow(axes: Axes, runs: Runs, look: dict[str, Line], order: str) -> None:
    for arm, of_arm in _informed(runs).items():
        profiles = [list(run["curve"][-1]["mi"].values()) for run in of_arm]
        profiles = [profile for profile in profiles if len(profile) == max(map(len, profiles))]  # all pairs finite
        pair = np.arange(1, len(profiles[0]) + 1)
        axes.plot(pair, np.median(profiles, axis=0), marker=".", **look[arm].options)
    axes.set(xlabel=f"{order}, from the input", ylabel="nats")
    axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))


def _dots(axes: Axes, values: dict[str, list[float | None]], look: dict[str, Line], start: float | None = None) -> None:
    for row, (arm, all_of_arm) in enumerate(values.items()):
        of_arm = [value for value in all_of_arm if value is not None]
        if not of_arm:
            continue
        axes.plot(of_arm, [row] * len(of_arm), "o", color=look[arm].colour, alpha=0.6, markersize=4)
        axes.plot([np.median(of_arm)] * 2, [row - 0.3, row + 0.3], color=look[arm].colour, linewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=start)


def _band(axes: Axes, curves: list[list[tuple[float, float]]], line: Line) -> None:
    """Draw the median over seeds by step, and the range from the lowest to the highest."""
    longest = max(curves, key=len)
    values = np.full((len(curves), len(longest)), np.nan)
    for row, curve in zip(values, curves, strict=True):  # a failed run ends early
        row[: len(curve)] = [value for _, value in curve]
    kept = np.unique(np.linspace(0, len(longest) - 1, min(len(longest), POINTS)).astype(int))
    steps, values = np.array([step for step, _ in longest])[kept], values[:, kept]
    axes.plot(steps, np.nanmedian(values, axis=0), **line.options)
    low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
    axes.fill_between(steps, low, high, color=line.colour, alpha=0.18, linewidth=0)


def _svg(draw: Callable[[Axes], None], rows: int | None = None) -> str:
    """Draw a chart in the page's own text colour, small enough for a phone.

    Args:
        draw: draws into the axes.
        rows: number of rows of a chart with one row per arm; its height grows with them.
    """
    size = (4.8, 3 if rows is None else max(1.4, 0.6 + 0.24 * rows))
    return _svg_figure(lambda figure: draw(figure.add_subplot()), size)


def _svg_figure(draw: Callable[[Figure], None], size: tuple[float, float]) -> str:
    """Draw a figure in the page's own text colour.

    Args:
        draw: draws into the figure.
        size: width and height in inches.
    """
    with mpl.rc_context(STYLE | ON_PAGE):
        figure = Figure(figsize=size, layout="constrained")
        draw(figure)
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    text = buffer.getvalue()
    text = re.sub(r"(\d\.\d\d)\d+(?!\d*<)", r"\1", text[text.index("<svg") :].replace(INK, "currentColor"))
    return re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL)
