"""The tables of a summary, and each of the forms in which they are written."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.statistics import median
from mireg.ablation.report.summary import AT, difference_key, final_key
from mireg.ablation.report.text import (
    difference_text,
    mean_text,
    metric_name,
    number_text,
    ratio_text,
    speed_text,
)
from mireg.ablation.report.verdicts import bounds, headline
from mireg.ablation.study.metric import MODES, Metric, to_target

Table = dict[str, list[str]]
"""The text of every row, by column name."""

IN_TERMINAL = {"arm": "arm", "reached": "reached", "steps to goal": "steps", "speed [95%]": "speed [95%]", "p": "p"}
"""Columns of a terminal's 80 characters, and their names there; the final metric follows."""


def comparison(cell: dict[str, Any]) -> Table:
    """The main table of a cell, a row per arm: speed to the goal, and the final metric."""
    metric, versus, arms = Metric.of(cell), _versus(cell), cell["arms"].values()
    points = ", points" if metric.is_share else ""
    never = f"not in {cell['budget_steps']}" if cell["target"] is not None else ""
    return _filled(
        {
            "arm": list(cell["arms"]),
            "learning rate": [number_text(arm["lr"], "g") for arm in arms],
            "reached": [_reached(cell, arm) for arm in arms],
            "steps to goal": [number_text(arm["steps_to_target"]["median"], ".0f", never) for arm in arms],
            "speed [95%]": [speed_text(v) for v in versus],
            "p": [number_text(v.get("p_value"), ".3f") for v in versus],
            "seconds to goal": [number_text(arm["seconds_to_target"]["median"], ".1f") for arm in arms],
            "speed in seconds [95%]": [
                "" if v.get("bound") else ratio_text(v.get("seconds_ratio"), v.get("seconds_ci95")) for v in versus
            ],
            f"{metric_name(cell)} [95%]": [mean_text(cell, arm[final_key(metric)]) for arm in arms],
            f"over {cell['baseline']}{points} [95%]": [
                difference_text(cell, arm.get(difference_key(metric))) for arm in arms
            ],
        }
    )


def details(cell: dict[str, Any]) -> Table:
    """Further details, a row per arm: other tests of the steps to the goal, equal time, and cost."""
    versus, arms = _versus(cell), cell["arms"].values()
    at_equal_time = f"{metric_name(cell, 'validation')} at equal time [95%]"
    return _filled(
        {
            "arm": list(cell["arms"]),
            "p (Holm)": [number_text(v.get("p_holm"), ".3f") for v in versus],
            "p (log-rank)": [number_text(v.get("logrank_p_value"), ".3f") for v in versus],
            at_equal_time: [mean_text(cell, arm["equal_time"]) for arm in arms],
            "ms per step": [number_text(arm["step_ms"], ".1f") for arm in arms],
        }
    )


def _versus(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [arm.get("vs_none") or {} for arm in cell["arms"].values()]


def _reached(cell: dict[str, Any], arm: dict[str, Any]) -> str:
    reached = "" if cell["target"] is None else f"{arm['n_reached']}/{arm['n_seeds']} "
    return (reached + (f"({arm['n_failed']} broke)" if arm["n_failed"] else "")).strip()


def _filled(table: Table) -> Table:
    """The columns that are not empty in every row."""
    return {name: texts for name, texts in table.items() if any(texts)}


def overviews(summary: dict[str, Any]) -> list[tuple[str, str, Table]]:
    """The tables over all cells that have rows: title, description, table."""
    found = [
        (
            "Early in training",
            "Validation metric after so many steps: median over seeds, the worst and the best.",
            _early(summary),
        ),
        (
            "The term against the other arms",
            f"Median steps to the goal of each arm over those of `{TERM}`, on paired seeds: above 1 `{TERM}` is "
            "faster. Where a median never reaches the goal, how many seeds do instead, of `mi` and of the other arm.",
            _against(summary),
        ),
        (
            "Side by side",
            "Each arm of a study against the same arm of the first one, on the seeds that both have: median steps to "
            "the goal of the first over those of the other, so above 1 the other is faster.",
            _side_by_side(summary),
        ),
        (
            "How the learning rates were chosen",
            "Median steps to the goal of the tuning runs at each learning rate, and the mean of their validation "
            "metric at the end; the rate in bold was taken.",
            _tuning(summary),
        ),
    ]
    return [overview for overview in found if overview[2]]


def of_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of these rows; empty if there are none."""
    return {name: list(texts) for name, texts in zip(columns, zip(*rows, strict=True), strict=True)} if rows else {}


def _early(summary: dict[str, Any]) -> Table:
    measured = [
        (cell, name, at)
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if (at := arm[f"{cell['metric']}_at"])
    ]
    steps = [str(step) for step in AT if any(at.get(str(step)) for _, _, at in measured)]
    rows = [[cell["cell"], name, *(_range(cell, at.get(step)) for step in steps)] for cell, name, at in measured]
    return of_rows(["cell", "arm", *(f"step {step}" for step in steps)], rows)


def _range(cell: dict[str, Any], values: Sequence[float] | None) -> str:
    if not values:
        return ""
    return mean_text(cell, {"mean": float(np.median(values)), "ci95": (min(values), max(values))}, digits=0)


def _against(summary: dict[str, Any]) -> Table:
    rows = [
        [cell["cell"], arm, speed_text(versus, TERM, arm), *_test(cell, versus)]
        for cell in summary["cells"]
        for arm, versus in cell["arms"].get(TERM, {}).get("over", {}).items()
    ]
    return of_rows(["cell", "arm", f"speed of {TERM} [95%]", "p", f"final metric of {TERM} over it [95%]"], rows)


def _side_by_side(summary: dict[str, Any]) -> Table:
    rows = [
        [row["study"], row["cell"], row["arm"], speed_text(row, row["study"], row["first"]), *_test(row, row)]
        for row in summary.get("side_by_side", [])
    ]
    return of_rows(["study", "cell", "arm", "speed [95%]", "p", "final metric over the first [95%]"], rows)


def _test(cell: dict[str, Any], versus: dict[str, Any]) -> list[str]:
    return [number_text(versus["p_value"], ".3f"), difference_text(cell, versus[difference_key(Metric.of(cell))])]


def _tuning(summary: dict[str, Any]) -> Table:
    """A row per cell and arm, the rate that was taken in bold as in Markdown."""
    tuning, chosen = summary.get("tuning", {}), summary.get("tuned", {})
    rates = sorted({lr for arms in tuning.values() for tried in arms.values() for lr in tried}, key=float)
    rows = []
    for cell, arms in tuning.items():
        for arm, tried in arms.items():
            texts = {lr: _tried(runs) for lr, runs in tried.items()}
            bold = {lr: f"**{text}**" for lr, text in texts.items() if chosen[cell][arm] == float(lr)}
            rows.append([cell, arm, *((texts | bold).get(lr, "") for lr in rates)])
    return of_rows(["cell", "arm", *(f"lr {float(lr):g}" for lr in rates)], rows)


def _tried(runs: dict[str, list[Any]]) -> str:
    """Text of the results of the tuning runs at one learning rate."""
    name = next(key for key in runs if key != "steps")
    last = [value for value in runs[name] if value is not None]
    mean = Metric(name, MODES[name]).show(float(np.mean(last))) if last else "broke"
    return f"{number_text(median(runs['steps']), '.0f', 'never')} ({mean})"


def title(cell: dict[str, Any]) -> str:
    """Title of a cell: its goal or budget, and its devices."""
    where = f", on {', '.join(cell['devices'])}" if cell["devices"] else ""
    if cell["target"] is None:
        return f"{cell['cell']}: {metric_name(cell)} after {cell['budget_steps']} steps{where}"
    goal = Metric.of(cell).show(cell["target"])
    least = "" if cell["mode"] == "max" else "at most "
    return f"{cell['cell']}: {least}{goal} {metric_name(cell, 'validation')} within {cell['budget_steps']} steps{where}"


def heading(summary: dict[str, Any]) -> str:
    """Heading of the report: the study and what its arms are compared with."""
    baselines = list(dict.fromkeys(cell["baseline"] for cell in summary["cells"]))
    without = baselines == [BASELINE]
    return f"{summary['study']}: {'with and without the MI term' if without else f'against {baselines[0]}'}"


def print_table(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of all cells, reduced to fit a terminal of 80 characters."""
    for cell in summary["cells"]:
        table, columns = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False), comparison(cell)
        final = f"{metric_name(cell)} [95%]"
        shown = {name: short for name, short in {**IN_TERMINAL, final: final}.items() if name in columns}
        for name, short in shown.items():
            table.add_column(short, justify="left" if name == "arm" else "right", no_wrap=name == "arm")
        for arm, *texts in zip(*(columns[name] for name in shown), strict=True):
            table.add_row(arm, *(text.partition(":")[0] for text in texts))  # the counts of a miss have their column
        console.print(f"[bold]{title(cell)}[/bold]", highlight=False)
        console.print(table)
        console.print(headline(cell), highlight=False)
    if caution(summary):
        console.print(caution(summary), highlight=False)


def as_markdown(summary: dict[str, Any]) -> str:
    """Format the verdicts and tables of all cells in Markdown."""
    above = f"{caution(summary)}\n\n" if caution(summary) else ""
    return f"# {heading(summary)}\n\n{above}{tables(summary)}"


def caution(summary: dict[str, Any]) -> str:
    """A sentence on results that were kept although the code of the runs has changed; empty if there are none."""
    names = ", ".join(summary.get("changed_code", []))
    return (
        f"Not all results are of the code as it is now: {names} changed, and what was there was kept." if names else ""
    )


def tables(summary: dict[str, Any], level: int = 2) -> str:
    """A section in Markdown per cell with its verdict and tables, and sections with tables over all cells.

    Args:
        summary: summary of the study.
        level: level of the headings.
    """
    parts, mark = [], "#" * level
    for cell in summary["cells"]:
        parts += [f"{mark} {title(cell)}", "", headline(cell), ""]
        for table in (comparison(cell), details(cell)):
            parts += [*markdown(table), ""]
        parts += [bounds(cell), ""] if bounds(cell) else []
    for name, about, table in overviews(summary):
        parts += [f"{mark} {name}", "", about, "", *markdown(table), ""]
    return "\n".join(parts)


def markdown(table: Table, align: str = "--:") -> list[str]:
    """A table as lines of Markdown; all columns but the first are aligned to the right, as numbers are."""
    lines = [f"| {' | '.join(table)} |", "|---" + f"|{align}" * (len(table) - 1) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in zip(*table.values(), strict=True)]


def as_latex(summary: dict[str, Any]) -> str:
    """The main table of each cell, for LaTeX with the package booktabs."""
    lines = ["% \\usepackage{booktabs}"]
    for cell in summary["cells"]:
        table = comparison(cell)
        rows = [[_latex(text) for text in row] for row in (list(table), *zip(*table.values(), strict=True))]
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{_latex(title(cell))}. {_latex(headline(cell))}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table) - 1)}}}", r"\toprule", head, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _latex(text: str) -> str:
    """Escape what LaTeX would read as a command.

    >>> print(_latex("mi_kde: 90%"))
    mi\\_kde: 90\\%
    """
    return "".join(
        {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"}.get(c, rf"\{c}" if c in "%&#_{}$" else c) for c in text
    )


def as_csv(results: Sequence[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Format a row per run; the columns of a goal that was not reached are empty."""
    finals = list(dict.fromkeys(Metric.of(cell).final for cell in summary["cells"]))
    text = io.StringIO()
    columns = ["cell", "arm", "seed", "lr", "steps_to_goal", "seconds_to_goal", *finals, "seconds", "failure"]
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    for run in results:
        reached = to_target(run["curve"], run["spec"]["cell"]["target"], Metric.of(run["spec"]["cell"])) or {}
        table.writerow({**run, "steps_to_goal": reached.get("step"), "seconds_to_goal": reached.get("seconds")})
    return text.getvalue()
