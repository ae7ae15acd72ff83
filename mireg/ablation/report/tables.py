"""The tables of a summary, and each of the forms in which they are written."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table as RichTable

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.curves import csv_text
from mireg.ablation.report.statistics import median
from mireg.ablation.report.summary import AT, difference_key, final_key
from mireg.ablation.report.text import difference_text, mean_text, metric_name, number_text, ratio_text, speed_text
from mireg.ablation.report.verdicts import bounds, headline
from mireg.ablation.study.metric import Metric, to_target

Table = dict[str, list[str]]
"""The text of every row, by column name."""

IN_TERMINAL = ("arm", "reached", "steps to goal", "speed [95%]", "p")
"""Columns of a terminal's 80 characters; the final metric follows."""


def comparison(cell: dict[str, Any]) -> Table:
    """The main table of a cell, a row per arm: speed to the goal, and the final metric."""
    metric, rows = Metric.of(cell), []
    points = ", points" if metric.is_share else ""
    never = f"not in {cell['budget_steps']}" if cell["target"] is not None else ""
    for name, arm in cell["arms"].items():
        versus = arm.get("vs_none") or {}
        in_seconds = None if versus.get("bound") else versus.get("seconds_ratio")
        reached = "" if cell["target"] is None else f"{arm['n_reached']}/{arm['n_seeds']} "
        broke = f"({arm['n_failed']} broke)" if arm["n_failed"] else ""
        row = {
            "arm": name,
            "learning rate": number_text(arm["lr"], "g"),
            "reached": f"{reached}{broke}".strip(),
            "steps to goal": number_text(arm["steps_to_target"]["median"], ".0f", never),
            "speed [95%]": speed_text(versus),
            "p": number_text(versus.get("p_value"), ".3f"),
            "seconds to goal": number_text(arm["seconds_to_target"]["median"], ".1f"),
            "speed in seconds [95%]": ratio_text(in_seconds, versus.get("seconds_ci95")),
            f"{metric_name(cell)} [95%]": mean_text(cell, arm[final_key(metric)]),
            f"over {cell['baseline']}{points} [95%]": difference_text(cell, arm.get(difference_key(metric))),
        }
        rows.append(row)
    return _filled(rows)


def details(cell: dict[str, Any]) -> Table:
    """Further details, a row per arm: other tests of the steps to the goal, equal time, and cost."""
    rows = [
        {
            "arm": name,
            "p (Holm)": number_text((arm.get("vs_none") or {}).get("p_holm"), ".3f"),
            "p (log-rank)": number_text((arm.get("vs_none") or {}).get("logrank_p_value"), ".3f"),
            f"{metric_name(cell, 'validation')} at equal time [95%]": mean_text(cell, arm["equal_time"]),
            "ms per step": number_text(arm["step_ms"], ".1f"),
        }
        for name, arm in cell["arms"].items()
    ]
    return _filled(rows)


def _filled(rows: Sequence[dict[str, str]]) -> Table:
    """The columns that are not empty in every row."""
    return {name: [row[name] for row in rows] for name in rows[0] if any(row[name] for row in rows)}


Overview = tuple[str, str, Table]
"""Title, description and rows of a table over all cells."""


def overviews(summary: dict[str, Any]) -> list[Overview]:
    """The tables over all cells that have rows."""
    every = (make(summary) for make in (_early, _against, _side_by_side, _tuning))
    return [overview for overview in every if overview[2]]


def of_rows(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table of these rows; empty if there are none."""
    return {name: list(texts) for name, texts in zip(columns, zip(*rows, strict=True), strict=True)} if rows else {}


def _early(summary: dict[str, Any]) -> Overview:
    about = "Validation metric after so many steps: median over seeds, the worst and the best."
    measured = [
        (cell, name, at)
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if (at := arm[f"{cell['metric']}_at"])
    ]
    steps = [str(step) for step in AT if any(at.get(str(step)) for _, _, at in measured)]
    rows = [[cell["cell"], name, *(_range(cell, at.get(step)) for step in steps)] for cell, name, at in measured]
    return "Early in training", about, of_rows(["cell", "arm", *(f"step {step}" for step in steps)], rows)


def _range(cell: dict[str, Any], values: Sequence[float] | None) -> str:
    if not values:
        return ""
    return mean_text(cell, {"mean": float(np.median(values)), "ci95": (min(values), max(values))}, digits=0)


def _against(summary: dict[str, Any]) -> Overview:
    about = (
        f"Median steps to the goal of each arm over those of `{TERM}`, on paired seeds: above 1 `{TERM}` is faster. "
        "Where a median never reaches the goal, how many seeds do instead, of `mi` and of the other arm."
    )
    rows = [
        [cell["cell"], arm, speed_text(versus, TERM, arm), *_test(cell, versus)]
        for cell in summary["cells"]
        for arm, versus in cell["arms"].get(TERM, {}).get("over", {}).items()
    ]
    columns = ["cell", "arm", f"speed of {TERM} [95%]", "p", f"final metric of {TERM} over it [95%]"]
    return "The term against the other arms", about, of_rows(columns, rows)


def _side_by_side(summary: dict[str, Any]) -> Overview:
    about = (
        "Each arm of a study against the same arm of the first one, on the seeds that both have: median steps to the "
        "goal of the first over those of the other, so above 1 the other is faster."
    )
    rows = [
        [row["study"], row["cell"], row["arm"], speed_text(row, row["study"], row["first"]), *_test(row, row)]
        for row in summary.get("side_by_side", [])
    ]
    columns = ["study", "cell", "arm", "speed [95%]", "p", "final metric over the first [95%]"]
    return "Side by side", about, of_rows(columns, rows)


def _test(cell: dict[str, Any], versus: dict[str, Any]) -> list[str]:
    return [number_text(versus["p_value"], ".3f"), difference_text(cell, versus[difference_key(Metric.of(cell))])]


def _tuning(summary: dict[str, Any]) -> Overview:
    """A row per cell and arm, the rate that was taken in bold as in Markdown."""
    about = (
        "Median steps to the goal of the tuning runs at each learning rate, and the mean of their validation metric at "
        "the end; the rate in bold was taken."
    )
    tuning, chosen = summary.get("tuning", {}), summary.get("tuned", {})
    rates = sorted({lr for arms in tuning.values() for tried in arms.values() for lr in tried}, key=float)
    rows = []
    for cell, arms in tuning.items():
        for arm, tried in arms.items():
            texts = {lr: _tried(runs) for lr, runs in tried.items()}
            bold = {lr: f"**{text}**" for lr, text in texts.items() if chosen[cell][arm] == float(lr)}
            rows.append([cell, arm, *((texts | bold).get(lr, "") for lr in rates)])
    table = of_rows(["cell", "arm", *(f"lr {float(lr):g}" for lr in rates)], rows)
    return "How the learning rates were chosen", about, table


def _tried(runs: dict[str, list[Any]]) -> str:
    """Text of the results of the tuning runs at one learning rate."""
    name = next(key for key in runs if key != "steps")
    last = [value for value in runs[name] if value is not None]
    mean = Metric(name).show(float(np.mean(last))) if last else "broke"
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
    what = "with and without the MI term" if baselines == [BASELINE] else f"against {baselines[0]}"
    return f"{summary['study']}: {what}"


def print_table(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of all cells, reduced to fit a terminal of 80 characters."""
    for cell in summary["cells"]:
        table, columns = RichTable(box=None, padding=(0, 2, 0, 0), pad_edge=False), comparison(cell)
        shown = [name for name in (*IN_TERMINAL, f"{metric_name(cell)} [95%]") if name in columns]
        for name in shown:
            short = name.removesuffix(" to goal")
            table.add_column(short, justify="left" if name == "arm" else "right", no_wrap=name == "arm")
        for arm, *texts in zip(*(columns[name] for name in shown), strict=True):
            table.add_row(arm, *(text.partition(":")[0] for text in texts))  # the counts of a miss have their column
        console.print(f"[bold]{title(cell)}[/bold]", highlight=False)
        console.print(table)
        console.print(headline(cell), highlight=False)
    if text := caution(summary):
        console.print(text, highlight=False)


def as_markdown(summary: dict[str, Any]) -> str:
    """Format the verdicts and tables of all cells in Markdown."""
    top = f"# {heading(summary)}".translate(IN_MARKDOWN)
    return "\n\n".join(filter(None, [top, caution(summary), tables(summary)]))


def caution(summary: dict[str, Any]) -> str:
    """A sentence on results that were kept although the code of the runs has changed; empty if there are none."""
    if names := ", ".join(summary.get("changed_code", [])):
        return f"Not all results are of the code as it is now: {names} changed, and what was there was kept."
    return ""


def tables(summary: dict[str, Any], level: int = 2) -> str:
    """A section in Markdown per cell with its verdict and tables, and sections with tables over all cells."""
    parts, mark = [], "#" * level
    for cell in summary["cells"]:
        parts += [f"{mark} {title(cell)}".translate(IN_MARKDOWN), "", headline(cell).translate(IN_MARKDOWN), ""]
        for table in (comparison(cell), details(cell)):
            parts += [*markdown(table), ""]
        parts += [bounds(cell).translate(IN_MARKDOWN), ""] if bounds(cell) else []
    for name, about, table in overviews(summary):
        parts += [f"{mark} {name}", "", about, "", *markdown(table), ""]
    return "\n".join(parts)


def markdown(table: Table, align: str = "--:") -> list[str]:
    """A table as lines of Markdown; all columns but the first are aligned to the right, as numbers are."""
    rows = [[text.translate(IN_MARKDOWN) for text in row] for row in (table, *zip(*table.values(), strict=True))]
    head, *body = (f"| {' | '.join(row)} |" for row in rows)
    return [head, "|---" + f"|{align}" * (len(table) - 1) + "|", *body]


IN_MARKDOWN = str.maketrans({"|": r"\|", "<": "&lt;"})
"""What Markdown would read as a column or as HTML, escaped."""

IN_LATEX = str.maketrans({c: rf"\{c}" for c in "%&#_{}$"} | {"\\": r"\textbackslash{}", "~": r"\~{}", "^": r"\^{}"})
"""What LaTeX would read as a command, escaped."""


def as_latex(summary: dict[str, Any]) -> str:
    """The main table of each cell, for LaTeX with the package booktabs."""
    lines = ["% \\usepackage{booktabs}"]
    for cell in summary["cells"]:
        table = comparison(cell)
        rows = (table, *zip(*table.values(), strict=True))
        head, *body = (" & ".join(text.translate(IN_LATEX) for text in row) + r" \\" for row in rows)
        caption = f"{title(cell)}. {headline(cell)}".translate(IN_LATEX)
        lines += ["", r"\begin{table}", r"\centering", rf"\caption{{{caption}}}"]
        lines += [rf"\begin{{tabular}}{{l{'r' * (len(table) - 1)}}}", r"\toprule", head, r"\midrule", *body]
        lines += [r"\bottomrule", r"\end{tabular}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def as_csv(results: Sequence[dict[str, Any]], summary: dict[str, Any]) -> str:
    """Format a row per run; the columns of a goal that was not reached are empty."""
    finals = list(dict.fromkeys(Metric.of(cell).final for cell in summary["cells"]))
    columns = ["cell", "arm", "seed", "lr", "steps_to_goal", "seconds_to_goal", *finals, "seconds", "failure"]
    rows = []
    for run in results:
        reached = to_target(run["curve"], run["spec"]["cell"]["target"], Metric.of(run["spec"]["cell"])) or {}
        rows.append({**run, "steps_to_goal": reached.get("step"), "seconds_to_goal": reached.get("seconds")})
    return csv_text(columns, rows)
