"""The tables of a summary, as text."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.statistics import median
from mireg.ablation.report.summary import AT, difference_key, final_key
from mireg.ablation.report.text import (
    difference_text,
    mean_text,
    metric_name,
    number_text,
    seconds_text,
    speed_text,
)
from mireg.ablation.report.verdicts import bounds, headline
from mireg.ablation.study.metric import MODES, Metric, to_target

Columns = dict[str, list[str]]
"""A table: the text of every row, by column name."""

SHORT = {"steps to goal": "steps"}
"""Shorter column names for a terminal."""


def comparison(cell: dict[str, Any]) -> Columns:
    """The main table of a cell, a row per arm: speed to the goal, and the final metric."""
    metric, versus = Metric.of(cell), _versus(cell)
    points = ", points" if metric.is_share else ""
    arms = cell["arms"].values()
    never = f"not in {cell['budget_steps']}" if cell["target"] is not None else ""
    return _filled(
        {
            "arm": list(cell["arms"]),
            "learning rate": [number_text(arm["lr"], "", "g") for arm in arms],
            "reached": [_reached(cell, arm) for arm in arms],
            "steps to goal": [number_text(arm["steps_to_target"]["median"], never, ".0f") for arm in arms],
            "speed [95%]": [speed_text(v) for v in versus],
            "p": [number_text(v.get("p_value"), "", ".3f") for v in versus],
            "seconds to goal": [number_text(arm["seconds_to_target"]["median"], "", ".1f") for arm in arms],
            "speed in seconds [95%]": [seconds_text(v) for v in versus],
            f"{metric_name(cell)} [95%]": [mean_text(cell, arm[final_key(metric)]) for arm in arms],
            f"over {cell['baseline']}{points} [95%]": [
                difference_text(cell, arm.get(difference_key(metric))) for arm in arms
            ],
        }
    )


def details(cell: dict[str, Any]) -> Columns:
    """Further details, a row per arm: other tests of the steps to the goal, equal time, and cost."""
    versus, arms = _versus(cell), cell["arms"].values()
    return _filled(
        {
            "arm": list(cell["arms"]),
            "p (Holm)": [number_text(v.get("p_holm"), "", ".3f") for v in versus],
            "p (log-rank)": [number_text(v.get("logrank_p_value"), "", ".3f") for v in versus],
            f"{metric_name(cell, 'validation')} at equal time [95%]": [
                mean_text(cell, arm["equal_time"]) for arm in arms
            ],
            "ms per step": [number_text(arm["step_ms"], "", ".1f") for arm in arms],
        }
    )


def _versus(cell: dict[str, Any]) -> list[dict[str, Any]]:
    return [arm.get("vs_none") or {} for arm in cell["arms"].values()]


def _reached(cell: dict[str, Any], arm: dict[str, Any]) -> str:
    reached = "" if cell["target"] is None else f"{arm['n_reached']}/{arm['n_seeds']} "
    return (reached + (f"({arm['n_failed']} broke)" if arm["n_failed"] else "")).strip()


def _filled(columns: Columns) -> Columns:
    """The columns that are not empty in every row."""
    return {name: texts for name, texts in columns.items() if any(texts)}


def print_table(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of all cells, reduced to fit a terminal of 80 characters."""
    for cell in summary["cells"]:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        columns = comparison(cell)
        narrow = ("arm", "reached", "steps to goal", "speed [95%]", "p", f"{metric_name(cell)} [95%]")
        shown = [name for name in narrow if name in columns]
        for name in shown:
            first = name == "arm"
            table.add_column(SHORT.get(name, name), justify="left" if first else "right", no_wrap=first)
        for row in zip(*(columns[name] for name in shown), strict=True):
            arm, *texts = row
            table.add_row(arm, *(text.partition(":")[0] for text in texts))  # a miss's counts are in another column
        console.print(f"[bold]{title(cell)}[/bold]", highlight=False)
        console.print(table)
        console.print(headline(cell), highlight=False)


def as_markdown(summary: dict[str, Any]) -> str:
    """Format the verdicts and tables of all cells in Markdown."""
    return f"# {heading(summary)}\n\n{tables(summary)}"


def heading(summary: dict[str, Any]) -> str:
    """Heading of the report: the study and what its arms are compared with."""
    baselines = list(dict.fromkeys(cell["baseline"] for cell in summary["cells"]))
    without = baselines == [BASELINE]
    return f"{summary['study']}: {'with and without the MI term' if without else f'against {baselines[0]}'}"


def tables(summary: dict[str, Any], level: int = 2) -> str:
    """A section per cell with its verdict and tables, and sections with tables over all cells.

    Args:
        summary: summary of the study.
        level: level of the headings.
    """
    parts, mark = [], "#" * level
    for cell in summary["cells"]:
        parts += [f"{mark} {title(cell)}", "", headline(cell), ""]
        for table in (comparison(cell), details(cell)):
            parts += [*_markdown(list(table), list(zip(*table.values(), strict=True))), ""]
        parts += [bounds(cell), ""] if bounds(cell) else []
    for heading, about, columns, body in overviews(summary):
        parts += [f"{mark} {heading}", "", about, "", *_markdown(columns, body), ""]
    return "\n".join(parts)


def overviews(summary: dict[str, Any]) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """The non-empty tables over all cells: title, description, header, rows."""
    found = [
        ("Early in training", EARLY, *early_table(summary)),
        ("Steps saved", SAVED, *saved_table(summary)),
        ("The term against the other arms", AGAINST, *against_table(summary)),
        ("Side by side", SIDE_BY_SIDE, *side_table(summary)),
        ("How the learning rates were chosen", TUNING, *tuning_table(summary)),
    ]
    return [overview for overview in found if overview[3]]


EARLY = "Validation metric after so many steps: median over seeds, the worst and the best."


def early_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the metric early in training, a row per cell and arm; no rows if none was measured."""
    measured = [
        (cell, name, at)
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if (at := arm[f"{cell['metric']}_at"])
    ]
    steps = [step for step in AT if any(at.get(str(step)) for _, _, at in measured)]
    body = [[cell["cell"], name, *(_range(cell, at.get(str(step))) for step in steps)] for cell, name, at in measured]
    return ["cell", "arm", *(f"step {step}" for step in steps)], body


def _range(cell: dict[str, Any], values: Sequence[float] | None) -> str:
    if not values:
        return ""
    if Metric.of(cell).is_share:
        return f"{np.median(values):.0%} [{100 * min(values):.0f}, {100 * max(values):.0f}]"
    return f"{np.median(values):.4g} [{min(values):.4g}, {max(values):.4g}]"


SAVED = (
    "The share of the baseline's steps that an arm does without: how much shorter its budget is than the one with "
    "which the baseline would end as well, read off the baseline's own end at several budgets."
)


def saved_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of steps saved; no rows if the baseline ran with only one budget."""
    body = [
        [
            cell["cell"],
            name,
            ", ".join(map(str, saved["budgets"])),
            _share(saved, cell["baseline"]),
            number_text(saved["n_pairs"], "", "d"),
        ]
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if (saved := arm.get("steps_saved"))
    ]
    return ["cell", "arm", "budgets of the baseline", "steps saved [95%]", "paired seeds"], body


def _share(saved: dict[str, Any], baseline: str) -> str:
    if saved["mean"] is None:
        return f"{baseline} gains nothing by more steps"
    interval = saved["ci95"]
    return f"{saved['mean']:.0%}" + (f" [{100 * interval[0]:.0f}, {100 * interval[1]:.0f}]" if interval else "")


AGAINST = (
    f"Median steps to the goal of each arm over those of `{TERM}`, on paired seeds: above 1 `{TERM}` is faster. Where "
    f"a median never reaches the goal, how many seeds do instead, of `{TERM}` and of the other arm."
)


def against_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the term against arms other than the baseline; no rows if there is no such arm."""
    body = [
        [cell["cell"], arm, speed_text(versus, TERM, arm), *_test(cell, versus)]
        for cell in summary["cells"]
        for arm, versus in cell["arms"].get(TERM, {}).get("over", {}).items()
    ]
    return ["cell", "arm", f"speed of {TERM} [95%]", "p", f"final metric of {TERM} over it [95%]"], body


SIDE_BY_SIDE = (
    "Each arm of a study against the same arm of the first one, on the seeds that both have: median steps to the goal "
    "of the first over those of the other, so above 1 the other is faster."
)


def side_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of studies side by side; no rows for a single study."""
    body = [
        [row["study"], row["cell"], row["arm"], speed_text(row, row["study"], row["first"]), *_test(row, row)]
        for row in summary.get("side_by_side", [])
    ]
    return ["study", "cell", "arm", "speed [95%]", "p", "final metric over the first [95%]"], body


def _test(cell: dict[str, Any], versus: dict[str, Any]) -> list[str]:
    difference = difference_text(cell, versus[difference_key(Metric.of(cell))])
    return [number_text(versus["p_value"], "", ".3f"), difference]


TUNING = (
    "Median steps to the goal of the tuning runs at each learning rate, and the mean of their validation metric at the "
    "end; the rate in bold was taken."
)


def tuning_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the tuning, a row per cell and arm, in Markdown; no rows without tuning."""
    tuning, chosen = summary.get("tuning", {}), summary.get("tuned", {})
    rates = sorted({lr for arms in tuning.values() for tried in arms.values() for lr in tried}, key=float)
    body = []
    for cell, arms in tuning.items():
        for arm, tried in arms.items():
            row = [cell, arm]
            for lr in rates:
                runs = tried.get(lr)
                text = _tried(runs) if runs else ""
                row.append(f"**{text}**" if chosen[cell][arm] == float(lr) and text else text)
            body.append(row)
    return ["cell", "arm", *(f"lr {float(lr):g}" for lr in rates)], body


def _tried(runs: dict[str, list[Any]]) -> str:
    """Text of the results of the tuning runs at one learning rate."""
    name = next(key for key in runs if key != "steps")
    last = [value for value in runs[name] if value is not None]
    mean = Metric(name, MODES[name]).show(float(np.mean(last))) if last else "broke"
    return f"{number_text(median(runs['steps']), 'never', '.0f')} ({mean})"


def _markdown(columns: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(columns)} |", "|---" + "|--:" * (len(columns) - 1) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in body]


def as_latex(summary: dict[str, Any]) -> str:
    """The main table of each cell, for LaTeX with the package booktabs."""
    lines = ["% \\usepackage{booktabs}"]
    for cell in summary["cells"]:
        columns = comparison(cell)
        rows = [[_latex(text) for text in row] for row in (list(columns), *zip(*columns.values(), strict=True))]
        head, *body = (" & ".join(row) + r" \\" for row in rows)
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{_latex(title(cell))}. {_latex(headline(cell))}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(columns) - 1)}}}", r"\toprule", head, r"\midrule", *body]
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
    columns = ["cell", "arm", "seed", "lr", "steps_to_goal", "seconds_to_goal", *finals, "seconds"]
    table = csv.DictWriter(text, [*columns, "failure"], lineterminator="\n")
    table.writeheader()
    for run in results:
        reached = to_target(run["curve"], run["spec"]["cell"]["target"], Metric.of(run["spec"]["cell"])) or {}
        row = {key: run[key] for key in ("cell", "arm", "seed", "lr", *finals, "seconds", "failure") if key in run}
        table.writerow({**row, "steps_to_goal": reached.get("step"), "seconds_to_goal": reached.get("seconds")})
    return text.getvalue()


def title(cell: dict[str, Any]) -> str:
    """Title of a cell: its goal or budget, and its devices."""
    where = f", on {', '.join(cell['devices'])}" if cell["devices"] else ""
    if cell["target"] is None:
        return f"{cell['cell']}: {metric_name(cell)} after {cell['budget_steps']} steps{where}"
    goal = Metric.of(cell).show(cell["target"])
    least = "" if cell["mode"] == "max" else "at most "
    return f"{cell['cell']}: {least}{goal} {metric_name(cell, 'validation')} within {cell['budget_steps']} steps{where}"
