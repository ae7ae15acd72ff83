"""The page of the convergence study: an overview by cell, the bar, the figures and the tables."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from eval import inside
from eval.bar import MET, NOT_MET, NOT_RUN, UNDEFINED, lines
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report import figures, tables
from mireg.ablation.report.summary import difference_key, final_key
from mireg.ablation.report.text import difference_text, mean_text, ratio_text
from mireg.ablation.storage.files import write_bytes
from mireg.ablation.storage.plane import draw_planes
from mireg.ablation.study.config import Cell
from mireg.ablation.study.convergence import CONVERGENCE, REMEDIES
from mireg.ablation.study.metric import Metric

CONTROL = "target-shuffled"
ELSE = (*REMEDIES, "deep-supervision", "lbe", "muon")
"""Alternatives to the term."""


def sections(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]], pictures: str) -> str:
    """Format everything between the markers of the page, as Markdown.

    Args:
        summary: summary of the study.
        results: results of its runs.
        pictures: the folder of :func:`write_pictures`, relative to the page.
    """
    text = ["### In one table", "", OVERVIEW, "", *_overview(summary), "", "### The bar", "", *_bar(summary, results)]
    text += ["", "### Figures", ""]
    for name, caption in _pictures(summary, results):
        text += [f"![{caption}]({pictures}/{name})", "", f"{caption}.", ""]
    text += ["### What forecasts a gain", "", inside.sentence(inside.over_cells(summary, results)), ""]
    text += ["### The commands", "", COMMANDS, "", *(f"    {command}" for command in commands(summary)), ""]
    return "\n".join([*text, tables(dict(summary), level=3)])


OVERVIEW = (
    f"A line per cell: steps to the target of `{BASELINE}` and `{TERM}`, median over seeds; the speed of `{TERM}`, "
    f"`{BASELINE}` being 1, with its 95% interval; how much better or worse it ends; the speed of the control, whose "
    "targets are shuffled; and the fastest of what one would do instead. In P cells, which have no target, speed is "
    f"the steps that `{BASELINE}` would need for the same end over those of the arm, and the remedy is the one that "
    "ends best."
)

COLUMNS = (
    "cell",
    "network",
    f"`{BASELINE}`",
    f"`{TERM}`",
    "speed in steps",
    "speed in seconds",
    f"end, over `{BASELINE}`",
    "control: speed",
    "best remedy",
    "seeds",
)


def _overview(summary: Mapping[str, Any]) -> list[str]:
    found = {cell["cell"]: cell for cell in summary["cells"]}
    body = [_row(cell, found.get(cell.name)) for cell in CONVERGENCE.cells if not cell.budget_of]
    return _table(COLUMNS, body)


def _row(cell: Cell, found: dict[str, Any] | None) -> list[str]:
    network = f"{cell.model} {' '.join(f'{k}={v}' for k, v in cell.model_options.items())}, {cell.dataset}"
    if found is None:
        return [cell.name, network, NOT_RUN, *[""] * (len(COLUMNS) - 3)]
    arms = found["arms"]
    term = arms.get(TERM, {})
    steps, seconds = _speeds(found, term)
    return [
        cell.name,
        network,
        _reached(found, BASELINE),
        _reached(found, TERM),
        steps if term else NOT_RUN,
        seconds,
        difference_text(found, term.get(difference_key(Metric.of(found)))),
        _speeds(found, arms[CONTROL])[0] if CONTROL in arms else NOT_RUN,
        _remedy(found),
        str(term.get("n_seeds", 0)),
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
    return ("never" if median is None else f"{median:,.0f}") + few


def _speeds(cell: Mapping[str, Any], arm: Mapping[str, Any]) -> tuple[str, str]:
    """Speed in steps and in seconds, to the target or, without one, to the same final metric."""
    if saved := arm.get("steps_saved"):
        if saved["mean"] is None:
            return "", ""
        steps = [1 / (1 - share) for share in (saved["mean"], *(saved["ci95"] or ()))]
        return (
            ratio_text(steps[0], None, steps[1:] or None),
            ratio_text(saved["seconds_ratio"], None, saved["seconds_ci95"]),
        )
    versus = arm.get("vs_none")
    if cell["target"] is None or not versus or versus["n_pairs"] == 0:
        return "", ""
    if versus["steps_ratio"] is None:
        return ("neither reached the target", "") if arm["n_reached"] == 0 and "bound" in versus else ("", "")
    return (
        ratio_text(versus["steps_ratio"], versus["bound"], versus["ci95"]),
        ratio_text(versus["seconds_ratio"], versus["bound"], versus["seconds_ci95"]),
    )


def _remedy(cell: dict[str, Any]) -> str:
    """The alternative with the fewest median steps or, without a target, the best final metric."""
    metric = Metric.of(cell)
    others = {name: arm for name, arm in cell["arms"].items() if name in ELSE}
    if cell["target"] is None:
        ends = {
            name: metric.gain(m) for name, arm in others.items() if (m := arm[final_key(metric)]["mean"]) is not None
        }
        if not ends:
            return NOT_RUN
        best = max(ends, key=ends.__getitem__)
        return f"`{best}`: {metric.show(others[best][final_key(metric)]['mean'], 1)}"
    steps = {name: m for name, arm in others.items() if (m := arm["steps_to_target"]["median"]) is not None}
    if not steps:
        return "no other gets there" if others else NOT_RUN
    best = min(steps, key=steps.__getitem__)
    return f"`{best}`: {steps[best]:,.0f}"


def _bar(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[str]:
    found = lines(summary, results)
    order = (MET, NOT_MET, NOT_RUN, UNDEFINED)
    counts = ", ".join(f"{n} {status}" for status in order if (n := sum(line.status == status for line in found)))
    about = (
        f"What had to be shown, written down before the runs: {counts}. A line that requires a gain is met "
        "if the whole 95% interval is on the right side of it, not the median alone; one that requires no loss (not "
        "slower, no worse, not faster) if the interval reaches it. Cost per step is judged on [its own page](cost.md)."
    )
    body = [[line.cell, line.required, line.measured, f"**{line.status}**" if line.status == NOT_MET else line.status]
            for line in found]  # fmt: skip
    return [about, "", *_table(("cell", "required", "measured", ""), body)]


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


def _table(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(columns)} |", "|---" * len(columns) + "|", *(f"| {' | '.join(row)} |" for row in body)]


def _pictures(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """The figures for which there are data, with their captions."""
    cells = summary["cells"]
    found = [
        ("curves.png", "The metric by step, a chart per cell: median over seeds, band from the lowest to the highest")
    ]
    if any(cell["target"] is not None for cell in cells):
        found.append(("profile.png", "Performance profile: the share of cells that an arm solves within so many times the steps of the fastest arm"))  # fmt: skip  # noqa: E501
    if any(arm.get("steps_saved", {}).get("ci95") for cell in cells for arm in cell["arms"].values()):
        found.append(("saved.png", f"Steps saved at the end of a schedule, in per cent of those of `{BASELINE}`, with 95% intervals"))  # fmt: skip  # noqa: E501
    names = [
        cell["cell"] for cell in cells if cell["cell"] in inside.SHOWN and figures.planes_of(cell, _runs(cell, results))
    ]
    found += [
        (f"plane-{name}.png", f"{name}: the information plane over training, without and with the term; each layer a "
         "point, the last one larger; dashed, what the input tells about the target")
        for name in names
    ]  # fmt: skip
    if any(inside.has_layers(results, cell) for cell in inside.SHOWN):
        found.append(("layers.png", "Information about the target by layer, without the term above and with it below"))
    return found


def _runs(cell: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    return {arm: [dict(r) for r in results if r["cell"] == cell["cell"] and r["arm"] == arm] for arm in cell["arms"]}


def write_pictures(folder: Path, summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
    """Draw the figures of the page into a folder, in addition to ``curves.png``, which every report has."""
    cells = summary["cells"]
    look = figures.lines(list(dict.fromkeys(arm for cell in cells for arm in cell["arms"])))
    wanted = {name for name, _ in _pictures(summary, results)}
    with mpl.rc_context(figures.STYLE):
        if "profile.png" in wanted:
            figure = Figure(figsize=(7, 4), layout="constrained")
            figures.draw_profile(figure.add_subplot(), cells, look)
            figure.legend(loc="outside right center")
            _save(folder / "profile.png", figure)
        if "saved.png" in wanted:
            _save(folder / "saved.png", _saved_figure(cells, look))
        for cell in cells:
            if f"plane-{cell['cell']}.png" in wanted:
                _save(folder / f"plane-{cell['cell']}.png", draw_planes(figures.planes_of(cell, _runs(cell, results))))

    if "layers.png" in wanted:
        _save(folder / "layers.png", inside.draw_layers(results))


def _saved_figure(cells: Sequence[dict[str, Any]], look: Mapping[str, figures.Line]) -> Figure:
    rows = [
        (cell["cell"], name, saved)
        for cell in cells
        for name, arm in cell["arms"].items()
        if (saved := arm.get("steps_saved", {})).get("ci95")
    ]
    figure = Figure(figsize=(7, 0.9 + 0.24 * len(rows)), layout="constrained")
    axes = figure.add_subplot()
    for place, (_, name, saved) in enumerate(rows):
        low, high = (100 * max(-1.0, edge) for edge in saved["ci95"])
        axes.plot([low, high], [place, place], color=look[name].colour, linewidth=2)
        axes.plot([100 * max(-1.0, saved["mean"])], [place], "o", color=look[name].colour, markersize=5)
    axes.axvline(0, color="#888888", linestyle=":", linewidth=1.2)
    axes.set_yticks(range(len(rows)), [f"{cell}: {name}" for cell, name, _ in rows])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.set(xlabel=f"steps saved, % of those of {BASELINE} (cut off at -100)")
    return figure


def _save(path: Path, figure: Figure) -> None:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110)
    write_bytes(path, buffer.getvalue())


def relative(folder: Path, page: Path) -> str:
    """The path of a folder relative to a page."""
    return Path(os.path.relpath(folder.resolve(), page.resolve().parent)).as_posix()
