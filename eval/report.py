"""The summary, the tables and the report of a study, rebuilt from the runs in its folder.

python -m eval.report DIR
python -m eval.report DIR --archive TARGET
python -m eval.report TARGET --page PAGE
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console
from rich.table import Table

from eval import archive, figures
from eval.convergence import AT, CONFIDENCE, load_results, median, summarise
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.curves import to_target
from mireg.ablation.storage import DamagedError, read_json, write_bytes, write_json
from mireg.ablation.tracking import write_spread
from mireg.ablation.tuning import read_tuning
from mireg.ablation.work import RUNS

SEEDS_FOR_A_TEST = 6
"""From fewer pairs an exact two-sided test cannot give p < 0.05."""

SEEDS_FOR_A_VERDICT = 5
"""From fewer pairs a bootstrap interval that lies beyond 1 is often chance: where there is no difference, in one study
of four at 3 pairs, in one of nine at 4, in one of twenty at 5."""


def write(folder: Path) -> dict[str, Any]:
    """Write ``summary.json``, ``report.html``, ``report.md``, ``runs.csv`` and ``curves.png`` into a study's folder.

    Beside its runs it writes their spread over seeds, for TensorBoard.

    Returns:
        The summary.

    Raises:
        FileNotFoundError: if the folder holds no finished run.
    """
    results, study, summary = write_tables(folder)
    write_bytes(folder / "runs.csv", as_csv(results, summary).encode())
    look = figures.lines(list(dict.fromkeys(arm for cell in summary["cells"] for arm in cell["arms"])))
    runs = {
        cell["cell"]: {
            arm: [r for r in results if r["cell"] == cell["cell"] and r["arm"] == arm] for arm in cell["arms"]
        }
        for cell in summary["cells"]
    }
    for cell, of_cell in runs.items():
        for arm, of_arm in of_cell.items():
            if (folder / RUNS).exists():  # not in an archive
                write_spread(folder / RUNS / cell / arm, [run["curve"] for run in of_arm])
    write_bytes(folder / "curves.png", figures.curves_png(summary["cells"], runs, look))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        folder=folder,
        look=look,
        header=HEADER,
        rows=rows,
        headline=headline,
        verdicts=verdicts,
        profile=Markup(figures.profile_figure(summary, look)) if len(summary["cells"]) > 1 else None,
        figures={
            cell["cell"]: {
                caption: Markup(svg) for caption, svg in figures.cell_figures(cell, runs[cell["cell"]], look).items()
            }
            for cell in summary["cells"]
        },
        overviews=overviews(summary),
        settings={cell["cell"]: _settings(cell["cell"], results) for cell in summary["cells"]},
        study={key: value for key, value in study.items() if key not in ("study", "arms")},
    )
    write_bytes(folder / "report.html", page.encode())
    return summary


def write_tables(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Write ``summary.json`` and ``report.md``, and return the runs, the study's record and the summary."""
    results = load_results(folder)
    study = read_json(folder / "study.json") or {"study": folder.name, "arms": []}
    summary = summarise(study["study"], results, study["arms"], read_tuning(folder))
    write_json(folder / "summary.json", summary)
    write_bytes(folder / "report.md", as_markdown(summary).encode())
    return results, study, summary


HEADER = (
    "arm",
    "reached",
    "steps to target",
    "speed [95%]",
    "p",
    "p (Holm)",
    "p (log-rank)",
    "seconds to target",
    "speed in seconds [95%]",
    "test accuracy [95%]",
    "over none, points [95%]",
    "validation accuracy at equal time",
    "ms per step",
    "learning rate",
)

NARROW = {0: "arm", 1: "reached", 2: "steps", 3: "speed [95%]", 4: "p", 9: "accuracy [95%]"}
"""The columns that fit a terminal of 80 characters."""


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
                _number(versus.get("p_holm"), "", ".3f"),
                _number(versus.get("logrank_p_value"), "", ".3f"),
                _number(arm["seconds_to_target"]["median"], "never", ".1f"),
                _ratio(versus.get("seconds_ratio"), versus.get("bound"), versus.get("seconds_ci95")),
                _accuracy(arm["final_accuracy"]),
                _points(arm.get("accuracy_difference")),
                _accuracy(arm["equal_time"]),
                _number(arm["step_ms"], "", ".1f"),
                f"{arm['lr']:g}",
            )
        )
    return table


TOO_FEW = "too few seeds to say"

VERDICTS = ("faster", "slower", "no difference shown", TOO_FEW, "stood aside")


def headline(cell: dict[str, Any]) -> str:
    """The verdict on the first arm beside the baseline, and the others by theirs."""
    compared = {name: arm for name, arm in cell["arms"].items() if arm.get("vs_none")}
    if not compared:
        return f"There is nothing to compare: the baseline {BASELINE!r} or every other arm is missing."
    first, *others = compared
    sentence = verdicts(cell)[first]
    if not others:
        return sentence
    found = {name: _verdict(compared[name]) for name in others}
    named = {word: [name for name in others if found[name] == word] for word in VERDICTS}
    return " ".join(
        [sentence, *(f"{word.capitalize()}: {', '.join(names)}." for word, names in named.items() if names)]
    )


def verdicts(cell: dict[str, Any]) -> dict[str, str]:
    """A sentence per arm: whether it got to the target sooner than the baseline, and how sure that is."""
    sentences = {}
    for name, arm in cell["arms"].items():
        versus = arm.get("vs_none")
        if not versus:
            continue
        if _verdict(arm) == "stood aside":
            sentences[name] = f"{name} stood aside: the network passes information on already, and was left as it is."
            continue
        reached = f"{name} reached {cell['target']:.0%} on {arm['n_reached']} of {arm['n_seeds']} seeds"
        if versus["steps_ratio"] is None:
            sentences[name] = (
                f"{reached}: at the median neither it nor {BASELINE} got there in {cell['budget_steps']} steps."
            )
            continue
        median = _number(arm["steps_to_target"]["median"], "no median", ".0f")
        factor = _ratio(versus["steps_ratio"], versus["bound"], None)
        interval = versus["ci95"]
        sure = f"95% interval {interval[0]:.1f} to {interval[1]:.1f}" if interval else "no interval from one seed"
        pairs = versus["n_pairs"]
        few = f" (too few seeds for a test: {pairs})" if SEEDS_FOR_A_VERDICT <= pairs < SEEDS_FOR_A_TEST else ""
        sentences[name] = (
            f"{reached} (median {median} steps), {factor} the speed of {BASELINE} ({sure}): {_verdict(arm)}{few}."
        )
    return sentences


def _verdict(arm: dict[str, Any]) -> str:
    """Faster or slower where the interval of enough seeds lies beyond 1, and the test, where it can, agrees."""
    if arm["n_stood_aside"] == arm["n_seeds"]:
        return "stood aside"
    versus = arm["vs_none"]
    if versus["n_pairs"] < SEEDS_FOR_A_VERDICT:
        return TOO_FEW
    low, high = versus["ci95"] or (0.0, float("inf"))
    refuted = versus["n_pairs"] >= SEEDS_FOR_A_TEST and versus["p_value"] > 1 - CONFIDENCE
    if versus["steps_ratio"] is None or refuted:
        return "no difference shown"
    return "faster" if low > 1 else "slower" if high < 1 else "no difference shown"


def print_table(summary: dict[str, Any], console: Console) -> None:
    """Print the tables of all cells, in what fits a terminal of 80 characters."""
    for cell in summary["cells"]:
        table = Table(box=None, padding=(0, 2, 0, 0), pad_edge=False)
        for column, name in NARROW.items():
            table.add_column(name, justify="left" if column == 0 else "right", no_wrap=column == 0)
        for row in rows(cell):
            table.add_row(*(row[column] for column in NARROW))
        console.print(f"[bold]{_title(cell)}[/bold]", highlight=False)
        console.print(table)
        console.print(headline(cell), highlight=False)


def as_markdown(summary: dict[str, Any]) -> str:
    """The verdicts and tables of all cells."""
    return f"# {summary['study']}: with and without the MI term\n\n{tables(summary)}"


def tables(summary: dict[str, Any], level: int = 2) -> str:
    """A section per cell with its verdict and table, and one on how learning rates were chosen.

    Args:
        summary: of the study.
        level: of the headings.
    """
    parts, mark = [], "#" * level
    for cell in summary["cells"]:
        parts += [f"{mark} {_title(cell)}", "", headline(cell), "", *_markdown(HEADER, rows(cell)), ""]
    for title, about, header, body in overviews(summary):
        parts += [f"{mark} {title}", "", about, "", *_markdown(header, body), ""]
    return "\n".join(parts)


def overviews(summary: dict[str, Any]) -> list[tuple[str, str, list[str], list[list[str]]]]:
    """The tables over all cells that have rows: title, what it shows, header, rows."""
    found = [
        ("Early accuracy", EARLY, *early_table(summary)),
        ("The term against the other arms", AGAINST, *against_table(summary)),
        ("How the learning rates were chosen", TUNING, *tuning_table(summary)),
    ]
    return [overview for overview in found if overview[3]]


EARLY = "Validation accuracy after so many steps: median over seeds, the worst and the best."


def early_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of accuracies early on, a row per cell and arm; no rows where none was measured then."""
    body = [
        [cell["cell"], name, *(_range(arm["accuracy_at"].get(str(step))) for step in AT)]
        for cell in summary["cells"]
        for name, arm in cell["arms"].items()
        if arm["accuracy_at"]
    ]
    return ["cell", "arm", *(f"step {step}" for step in AT)], body


def _range(values: Sequence[float] | None) -> str:
    return f"{np.median(values):.0%} [{100 * min(values):.0f}, {100 * max(values):.0f}]" if values else ""


AGAINST = (
    f"Median steps to target of each arm over those of `{TERM}`, on paired seeds: above 1 `{TERM}` is faster. A miss "
    "counts the whole budget."
)


def against_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the term against arms other than the baseline; no rows where it met none."""
    body = [
        [
            cell["cell"],
            arm,
            _ratio(versus["steps_ratio"], versus.get("bound"), versus["ci95"]) or "neither got there",
            _number(versus["p_value"], "", ".3f"),
            _points(versus["accuracy_difference"]),
        ]
        for cell in summary["cells"]
        for arm, versus in cell["arms"].get(TERM, {}).get("over", {}).items()
    ]
    return ["cell", "arm", f"speed of {TERM} [95%]", "p", f"test accuracy of {TERM} over it, points [95%]"], body


TUNING = (
    "Median steps to target of the tuning runs at each learning rate, and their mean validation accuracy at the end; "
    "the rate in bold was taken."
)


def tuning_table(summary: dict[str, Any]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the tuning, a row per cell and arm, in Markdown; no rows without tuning."""
    tuning = summary.get("tuning", {})
    rates = sorted({lr for arms in tuning.values() for tried in arms.values() for lr in tried}, key=float)
    chosen = {(cell["cell"], name): arm["lr"] for cell in summary["cells"] for name, arm in cell["arms"].items()}
    body = []
    for cell, arms in tuning.items():
        for arm, tried in arms.items():
            row = [cell, arm]
            for lr in rates:
                runs = tried.get(lr)
                text = (
                    f"{_number(median(runs['steps']), 'never', '.0f')} ({np.mean(runs['accuracy']):.0%})"
                    if runs
                    else ""
                )
                row.append(f"**{text}**" if chosen.get((cell, arm)) == float(lr) and text else text)
            body.append(row)
    return ["cell", "arm", *(f"lr {float(lr):g}" for lr in rates)], body


def _markdown(header: Sequence[str], body: Sequence[Sequence[str]]) -> list[str]:
    lines = [f"| {' | '.join(header)} |", "|---" + "|--:" * (len(header) - 1) + "|"]
    return lines + [f"| {' | '.join(row)} |" for row in body]


def as_csv(results: Sequence[dict[str, Any]], summary: dict[str, Any]) -> str:
    """A row per run; a target never reached leaves its columns empty."""
    targets = {cell["cell"]: cell["target"] for cell in summary["cells"]}
    text = io.StringIO()
    columns = ["cell", "arm", "seed", "lr", "steps_to_target", "seconds_to_target", "test_accuracy", "seconds"]
    table = csv.DictWriter(text, [*columns, "failure"], lineterminator="\n")
    table.writeheader()
    for run in results:
        reached = to_target(run["curve"], targets[run["cell"]]) or {}
        row = {key: run[key] for key in ("cell", "arm", "seed", "lr", "test_accuracy", "seconds", "failure")}
        table.writerow({**row, "steps_to_target": reached.get("step"), "seconds_to_target": reached.get("seconds")})
    return text.getvalue()


def _title(cell: dict[str, Any]) -> str:
    where = f", on {', '.join(cell['devices'])}" if cell["devices"] else ""
    return f"{cell['cell']}: {cell['target']:.0%} validation accuracy within {cell['budget_steps']} steps{where}"


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
    return f"{mean:.1%}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")


def _points(value: dict[str, Any] | None) -> str:
    if value is None or value["mean"] is None:
        return ""
    interval = value["ci95"]
    return f"{100 * value['mean']:+.1f}" + (
        f" [{100 * interval[0]:+.1f}, {100 * interval[1]:+.1f}]" if interval else ""
    )


def fill(page: Path, summary: dict[str, Any]) -> None:
    """Put the tables into a page, between its two markers.

    Raises:
        ValueError: if the page has not these markers.
    """
    before, start, rest = page.read_text(encoding="utf-8").partition(MARKERS[0])
    _, end, after = rest.partition(MARKERS[1])
    if not (start and end):
        raise ValueError(f"{page} has no {' ... '.join(MARKERS)}: put these lines where the tables belong")
    write_bytes(page, f"{before}{start}\n\n{tables(summary, level=3)}\n{end}{after}".encode())


MARKERS = ("<!-- tables -->", "<!-- /tables -->")


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.report", description="Rebuild a study's summary and report.")
    parser.add_argument("folder", type=Path, help="the study's folder, as given to train.py --out, or an archive")
    parser.add_argument("--archive", type=Path, help="put the runs, small, into this folder, and write its tables")
    parser.add_argument("--page", type=Path, help=f"put the tables into this page, between {' and '.join(MARKERS)}")
    arguments = parser.parse_args()
    folder = arguments.folder
    try:
        summary = write(folder)
        if arguments.archive:
            archive.add(folder, arguments.archive)
            summary = write_tables(arguments.archive)[2]
        if arguments.page:
            fill(arguments.page, summary)
    except (OSError, ValueError) as error:
        print(f"eval.report: {error}", file=sys.stderr)
        return 2
    except DamagedError as error:
        print(f"eval.report: {error}: give the study's command again, it repeats that run", file=sys.stderr)
        return 2
    print_table(summary, Console())
    print(f"report: {folder / 'report.html'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
