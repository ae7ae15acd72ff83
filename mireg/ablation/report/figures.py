"""Charts of a study, each with its own legend: on the page as SVG, and as files for papers and slides."""

from __future__ import annotations

import hashlib
import io
import itertools
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from mireg import estimators
from mireg.ablation.arms import ARMS
from mireg.ablation.report.summary import step_ms
from mireg.ablation.report.text import metric_name
from mireg.ablation.study.metric import Metric, to_target

COLOURS = ("#808080", "#2f7fd1", "#e07b00", "#1f9e62", "#d1495b", "#8d6bd1", "#b5771a", "#d357a5", "#0fa3b1")
"""Colours of the arms in order; only the baseline, the first, is grey. All are legible on white and on black."""

DASHES = ("-", (0, (5, 2)), (0, (1.5, 1.5)))
"""Line styles of the first, second and third arm with the same colour."""

INK = "#010203"
"""Placeholder for the text colour: the page's own there; in files mid-grey, legible on white and on black."""

GREY = "#777777"

INKED = ("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color", "grid.color")

FOLDER = "figures"
"""Folder in a report's with the charts for papers and slides."""

POINTS = 40
"""Approximate number of points per curve in a chart; ``curves.csv`` has all of them."""

MEASURED = "kde"
"""Estimator with which the built-in trainer measures every arm, the default of :func:`mireg.measure`."""

LAYERS = 6
"""Largest number of layers in a chart of what the term rewards, spread from the first to the last."""

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
    "legend.fontsize": 8.5,
    "svg.fonttype": "none",
    "svg.hashsalt": "mireg",
    "pdf.fonttype": 42,
}

WIDE = 20
"""Highest over lowest value of a metric from which its axis is logarithmic: a loss that starts far above its end would
flatten all curves."""


Line = dict[str, Any]
"""Colour and line style of an arm, as options of matplotlib: the same in every chart."""

Look = Mapping[str, Line]
"""Lines by arm."""

Runs = dict[str, list[dict[str, Any]]]
"""Results of a cell's runs, by arm."""


@dataclass(frozen=True)
class Chart:
    """A figure of a size in inches, its file name without extension and its caption; one for papers is also a file."""

    name: str
    caption: str
    draw: Callable[[Figure], None]
    size: tuple[float, float]
    for_papers: bool = False


def lines(arms: Sequence[str]) -> dict[str, Line]:
    """Choose a line style for each arm."""
    others = itertools.cycle(itertools.product(DASHES, COLOURS[1:]))
    of_arms = zip(arms, itertools.chain([(DASHES[0], COLOURS[0])], others), strict=False)
    return {arm: {"color": colour, "linestyle": dash} for arm, (dash, colour) in of_arms}


def runs_of(cell: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> Runs:
    """The runs of a cell of a summary, by arm."""
    return {arm: [dict(r) for r in results if r["cell"] == cell["cell"] and r["arm"] == arm] for arm in cell["arms"]}


def drawn(chart: Chart) -> tuple[str, dict[str, bytes]]:
    """A chart as SVG in the page's own text colour and, if it is for papers, as PNG, SVG and PDF, by file name."""
    text = _rendered(chart, "svg", INK, metadata={"Date": None, "Creator": None}).decode()
    text = re.sub(r"(\d\.\d\d)\d+(?!\d*<)", r"\1", text)
    files = {}
    if chart.for_papers:
        files[f"{chart.name}.svg"] = text.replace(INK, GREY).encode()
        files[f"{chart.name}.png"] = _rendered(chart, "png", GREY, dpi=160)
        files[f"{chart.name}.pdf"] = _rendered(chart, "pdf", metadata={"CreationDate": None})
    text = text[text.index("<svg") :].replace(INK, "currentColor")
    return re.sub(r"<metadata>.*?</metadata>", "", text, count=1, flags=re.DOTALL), files


def _rendered(chart: Chart, form: str, ink: str | None = None, **options: Any) -> bytes:
    """Draw a chart in a form, with text in a colour of its own if one is given."""
    buffer = io.BytesIO()
    plain = {"text.parse_math": False}  # names may have a dollar sign
    with mpl.rc_context(STYLE | plain | (dict.fromkeys(INKED, ink) if ink else {})):
        figure = Figure(figsize=chart.size, layout="constrained")
        chart.draw(figure)
        figure.savefig(buffer, format=form, transparent=True, **options)
    return buffer.getvalue()


def cell_charts(cell: dict[str, Any], runs: Runs, look: Look) -> list[Chart]:
    """The charts of a cell; those of information only if its runs measured it, which an archive does not keep."""
    begun = {arm: of for arm, of in runs.items() if any(run["curve"] for run in of)}
    return [replace(chart, name=_file_name(cell, chart.name)) for chart in _charts(cell, begun, look)]


def _file_name(cell: Mapping[str, Any], chart: str) -> str:
    """A name of its own for each chart; a digest tells apart those of which not every character can stay."""
    whole = f"{cell['cell']}-{chart}"
    name = re.sub(r"[^\w.-]+", "-", whole)[:100]
    return name if name == whole else f"{name}-{hashlib.sha256(whole.encode()).hexdigest()[:8]}"


def picture(cell: Mapping[str, Any]) -> str:
    """Path of the picture of a cell's learning curves in the folder of its report."""
    return f"{FOLDER}/{_file_name(cell, cell['metric'])}.png"


def _charts(cell: dict[str, Any], runs: Runs, look: Look) -> Iterator[Chart]:
    metric, goal, rows = Metric.of(cell), cell["target"], len(runs)
    dotted = "" if goal is None else f"; the goal, {metric.show(goal)}, dotted"
    caption = f"By step: {metric_name(cell, 'validation')}, median over seeds, band from lowest to highest{dotted}"
    yield _with_legend(metric.name, caption, lambda axes: draw_metric(axes, cell, runs, look), rows, for_papers=True)
    if goal is not None:
        caption = "Share of the seeds that have reached the goal, by step"
        yield _with_legend("reached", caption, lambda axes: _survival(axes, cell, runs, look), rows, for_papers=True)
    for arm, of_arm in runs.items():
        if any(point.get("rewarded") for run in of_arm for point in run["curve"]):
            caption = f"What the term of {arm} rewards, by step, median over seeds, of layers from input to output"
            yield _with_legend(f"rewarded-{arm}", caption, partial(_rewarded, runs=of_arm), LAYERS)
    informed = {arm: of for arm, of in runs.items() if all(point.get("mi") for run in of for point in run["curve"])}
    for name in dict.fromkeys(_estimator(of, "mi") for of in informed.values()):  # an axis has one unit
        same = {arm: of for arm, of in informed.items() if _estimator(of, "mi") == name}
        caption = "Smallest estimate of a successive pair, by step: the weakest link"
        yield _with_legend(f"weakest-link-{name}", caption, partial(_weakest_link, runs=same, look=look), len(same))
        caption = "Estimate for each successive pair after the last step, from the input to the output"
        yield _with_legend(f"flow-{name}", caption, partial(_flow, runs=same, look=look), len(same))
    size, each = (4.8, max(1.4, 0.6 + 0.24 * rows)), "a dot per seed, a bar at the median"
    finals = {arm: [run[metric.final] for run in of] for arm, of in runs.items()}
    yield Chart("final", f"After the last step: {metric_name(cell)}, {each}", partial(_dots, finals, look), size)
    times = {arm: [step_ms([run]) for run in of] for arm, of in runs.items()}
    if any(ms is not None for of_arm in times.values() for ms in of_arm):
        caption = f"Cost: milliseconds per training step, {each}"
        yield Chart("cost", caption, partial(_dots, times, look, start=0.0), size)


def _with_legend(
    name: str, caption: str, draw: Callable[[Axes], None], lines: int, *, for_papers: bool = False
) -> Chart:
    """A chart of so many lines, and their names below it."""

    def drawn(figure: Figure) -> None:
        axes = figure.add_subplot()
        draw(axes)
        handles, labels = axes.get_legend_handles_labels()
        columns = 3 if all(len(label) <= 15 for label in labels) else 2
        figure.legend(handles, labels, loc="outside lower center", ncols=columns)

    return Chart(name, caption, drawn, (4.8, 3 + 0.2 * math.ceil(lines / 2)), for_papers)


def _label(axes: Axes, runs: Sequence[Mapping[str, Any]], of: str) -> None:
    """Write on a chart how runs estimated what they measured (``"mi"``) or rewarded, as far as they tell.

    A result has, as ``estimates``, for both the name of the ``estimator``, the number of ``samples``, and ``floor`` and
    ``ceiling`` in the estimator's unit.
    """
    name, unit, about = _estimator(runs, of), "nats", "estimator not recorded"
    if name in estimators.REGISTRY:
        known = [run.get("estimates", {}).get(of, {}) for run in runs]
        measures = estimators.REGISTRY[name].measures
        ends = [f"{end} {_range([of_run[end] for of_run in known if end in of_run])}" for end in ("floor", "ceiling")]
        samples = f" on {known[0]['samples']} samples" if "samples" in known[0] else ""
        unit = "index" if measures == "dependence" else "nats"
        about = f"{measures}, {name} estimator{samples}\n{', '.join(ends)}"
    axes.set_ylabel(unit)
    axes.set_title(about, fontsize=8, loc="left")
    axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))


def _estimator(runs: Sequence[Mapping[str, Any]], of: str) -> str:
    """The estimator of what runs measured or rewarded, as far as they tell."""
    known, arm = runs[0].get("estimates", {}).get(of, {}), ARMS.get(runs[0]["arm"])
    by_trainer = of == "mi" and "task" in runs[0]  # which measures every arm with the same estimator
    name = known.get("estimator") or (MEASURED if by_trainer else arm.estimator if arm else None)
    return name if name in estimators.REGISTRY else "unknown"


def _range(values: Sequence[float | None]) -> str:
    """A floor or ceiling of several runs.

    >>> _range([]), _range([0.011, 0.012]), _range([-0.04, 0.2])
    ('not measured', '0.01', '-0.04 to 0.20')
    """
    known = [value for value in values if value is not None]
    return " to ".join(dict.fromkeys(f"{end(known):.2f}" for end in (min, max))) if known else "not measured"


def _survival(axes: Axes, cell: dict[str, Any], runs: Runs, look: Look) -> None:
    """Draw the share of seeds that have reached the goal by step."""
    for arm, of_arm in runs.items():
        points = [to_target(run["curve"], cell["target"], Metric.of(cell)) for run in of_arm]
        steps = sorted(point["step"] for point in points if point is not None)
        share = np.arange(len(steps) + 1) / len(of_arm)
        label = f"{arm} ({len(steps)} of {len(of_arm)})"
        at = [0, *steps, cell["budget_steps"]]
        axes.step(at, [0, *share[1:], share[-1]], where="post", label=label, **look[arm])
    axes.set(xlabel="training step", ylabel="share of seeds", ylim=(-0.02, 1.04), xlim=(0, cell["budget_steps"]))


def draw_metric(axes: Axes, cell: dict[str, Any], runs: Runs, look: Look) -> None:
    """Draw the validation metric by step."""
    metric = Metric.of(cell)
    _bands(axes, runs, look, lambda point: point[metric.validation])
    if cell["target"] is not None:
        axes.axhline(cell["target"], color="#888888", linestyle=":", linewidth=1.2)
    axes.set(xlabel="training step", ylabel=metric.name)
    if metric.is_share:
        axes.set_ylim(0, 1)
    elif axes.dataLim.ymin > 0 and axes.dataLim.ymax > WIDE * axes.dataLim.ymin:
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter("{x:g}")


def _weakest_link(axes: Axes, runs: Runs, look: Look) -> None:
    """Draw the smallest MI of a pair by step."""
    _bands(axes, runs, look, lambda point: min(point["mi"].values()))
    axes.set_xlabel("training step")
    _label(axes, list(itertools.chain(*runs.values())), "mi")


def _flow(axes: Axes, runs: Runs, look: Look) -> None:
    """Draw the MI of each pair after the last step."""
    for arm, of_arm in runs.items():
        profiles = [list(run["curve"][-1]["mi"].values()) for run in of_arm]
        profiles = [profile for profile in profiles if len(profile) == max(map(len, profiles))]  # all pairs finite
        pair = np.arange(1, len(profiles[0]) + 1)
        axes.plot(pair, np.median(profiles, axis=0), marker=".", label=arm, **look[arm])
    axes.set_xlabel("successive pair, from the input")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _label(axes, list(itertools.chain(*runs.values())), "mi")


def _rewarded(axes: Axes, runs: Sequence[dict[str, Any]]) -> None:
    """Draw the estimates that a term rewards by step, a line per layer."""
    keys = max((list(point.get("rewarded", {})) for run in runs for point in run["curve"]), key=len)
    chosen = np.unique(np.linspace(0, len(keys) - 1, LAYERS).round().astype(int))
    for index, key in enumerate(keys[place] for place in chosen):
        curves = [[(p["step"], p["rewarded"][key]) for p in r["curve"] if key in p.get("rewarded", {})] for r in runs]
        steps, values = _on_common_steps(curves)
        axes.plot(steps, np.nanmedian(values, axis=0), color=COLOURS[1 + index], label=key)
    axes.set_xlabel("training step")
    _label(axes, runs, "rewarded")


def _dots(values: Mapping[str, Sequence[float | None]], look: Look, figure: Figure, start: float | None = None) -> None:
    """Draw a dot per number and a bar at the median, a row per arm."""
    axes = figure.add_subplot()
    for row, (arm, all_of_arm) in enumerate(values.items()):
        if of_arm := [value for value in all_of_arm if value is not None]:
            axes.plot(of_arm, [row] * len(of_arm), "o", color=look[arm]["color"], alpha=0.6, markersize=4)
            axes.plot([np.median(of_arm)] * 2, [row - 0.3, row + 0.3], color=look[arm]["color"], linewidth=2)
    axes.set_yticks(range(len(values)), list(values))
    axes.set_ylim(len(values) - 0.4, -0.6)
    axes.grid(visible=False, axis="y")
    axes.set_xlim(left=start)


def _bands(axes: Axes, runs: Runs, look: Look, read: Callable[[dict[str, Any]], float]) -> None:
    """Draw the median over seeds by step, and the range from the lowest to the highest, of what is read of a point."""
    for arm, of_arm in runs.items():
        steps, values = _on_common_steps([[(p["step"], read(p)) for p in run["curve"]] for run in of_arm])
        axes.plot(steps, np.nanmedian(values, axis=0), label=arm, **look[arm])
        low, high = np.nanmin(values, axis=0), np.nanmax(values, axis=0)
        axes.fill_between(steps, low, high, color=look[arm]["color"], alpha=0.18, linewidth=0)


def _on_common_steps(curves: list[list[tuple[float, float]]]) -> tuple[np.ndarray, np.ndarray]:
    """Some of the steps of all curves, and their (curves, steps) values there, interpolated; NaN beyond a curve."""
    steps = np.unique([step for curve in curves for step, _ in curve])
    steps = steps[np.unique(np.linspace(0, len(steps) - 1, min(len(steps), POINTS)).astype(int))]
    known = [np.array(curve, dtype=float).T for curve in curves if curve]
    return steps, np.array([np.interp(steps, x, y, left=np.nan, right=np.nan) for x, y in known])
