"""The report of a study: its summary, tables, charts and page, rebuilt from the runs in its folder."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console

from mireg.ablation.report import figures
from mireg.ablation.report.results import load_results
from mireg.ablation.report.summary import summarise
from mireg.ablation.report.tables import as_csv, as_markdown, comparison, details, overviews, title
from mireg.ablation.report.verdicts import headline, verdicts
from mireg.ablation.storage.files import read_json, write_bytes, write_json
from mireg.ablation.storage.provenance import RUNS, read_tuning
from mireg.ablation.storage.tensorboard import write_spread
from mireg.ablation.study.metric import Metric


def write(folder: Path) -> dict[str, Any]:
    """Write ``summary.json``, ``report.html``, ``report.md``, ``runs.csv`` and ``curves.png`` into a study's folder.

    Also write the spread of the runs over seeds, for TensorBoard.

    Returns:
        The summary.

    Raises:
        FileNotFoundError: if the folder has no finished run.
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
    metrics = {cell["cell"]: Metric.of(cell) for cell in summary["cells"]}
    for cell, of_cell in runs.items():
        for arm, of_arm in of_cell.items():
            if (folder / RUNS).exists():  # not in an archive
                write_spread(folder / RUNS / cell / arm, [run["curve"] for run in of_arm], metrics[cell])
    write_bytes(folder / "curves.png", figures.curves_png(summary["cells"], runs, look))
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        folder=folder,
        look=look,
        title=title,
        plane=figures.PLANE,
        zip=zip,
        comparison=comparison,
        details=details,
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


def print_places(folder: Path, console: Console) -> None:
    """Print where the report is, and how to view the curves."""
    console.print(f"report:      {folder / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"TensorBoard: tensorboard --logdir {folder / RUNS}", highlight=False, soft_wrap=True)


def write_tables(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Write ``summary.json`` and ``report.md``, and return the runs, the study's record and the summary."""
    results = load_results(folder)
    study = read_json(folder / "study.json") or {"study": folder.name, "arms": []}
    summary = summarise(study["study"], results, study["arms"], read_tuning(folder))
    write_json(folder / "summary.json", summary)
    write_bytes(folder / "report.md", as_markdown(summary).encode())
    return results, study, summary


def _settings(cell: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spec = next(result["spec"] for result in results if result["cell"] == cell)
    return {**spec["cell"], **{f"term {key}": value for key, value in spec["term"].items()}}
