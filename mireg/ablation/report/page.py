"""The report of a study: its summary, tables, charts and page, in one folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console

from mireg.ablation.arms import BASELINE
from mireg.ablation.report import figures
from mireg.ablation.report.curves import as_curves
from mireg.ablation.report.results import load_results
from mireg.ablation.report.summary import summarise
from mireg.ablation.report.tables import (
    as_csv,
    as_latex,
    as_markdown,
    caution,
    comparison,
    details,
    heading,
    overviews,
    print_table,
    title,
)
from mireg.ablation.report.verdicts import bounds, headline, verdicts
from mireg.ablation.storage.files import read_json, write_bytes, write_json
from mireg.ablation.storage.provenance import RECORD, RUNS, read_tuning


def write(folder: Path) -> dict[str, Any]:
    """Write the report of a study's folder or archive into it, see :func:`publish`, and return the summary.

    Raises:
        FileNotFoundError: if the folder has no finished run.
    """
    results, study, summary = write_tables(folder)
    publish(folder, results, study, summary)
    return summary


def write_tables(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any], dict[str, Any]]:
    """Write ``summary.json`` and ``report.md``, and return the runs, the study's record and the summary."""
    results = load_results(folder)
    study = read_json(folder / RECORD) or {"study": folder.name, "arms": []}
    summary = summary_of(folder, results, study)
    _write_summary(folder, summary)
    return results, study, summary


def summary_of(
    folder: Path, results: Sequence[dict[str, Any]], study: Mapping[str, Any], baseline: str = BASELINE
) -> dict[str, Any]:
    """The summary of a study's runs, with what its folder and record add."""
    summary = summarise(study["study"], results, study["arms"], read_tuning(folder), baseline)
    return summary | ({"changed_code": changed} if (changed := study.get("changed_code")) else {})


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    write_json(folder / "summary.json", summary)
    write_bytes(folder / "report.md", as_markdown(summary).encode())


def publish(folder: Path, results: Sequence[dict[str, Any]], study: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """Write a report into a folder; the record of the study is at the end of the page.

    ``summary.json``; ``report.html``, the page; ``report.md`` and ``tables.tex``, the tables; ``runs.csv``, a row per
    run; ``curves.csv``, a row per point; and ``figures/``, the main charts as PNG, SVG and PDF.
    """
    _write_summary(folder, summary)
    write_bytes(folder / "tables.tex", as_latex(summary).encode())
    write_bytes(folder / "runs.csv", as_csv(results, summary).encode())
    cells = summary["cells"]
    runs = {cell["cell"]: figures.runs_of(cell, results) for cell in cells}
    in_order = itertools.chain.from_iterable(itertools.chain(*of.values()) for of in runs.values())
    write_bytes(folder / "curves.csv", as_curves(list(in_order)).encode())
    look = figures.lines(list(dict.fromkeys(arm for cell in cells for arm in cell["arms"])))
    charts = {cell["cell"]: figures.cell_charts(cell, runs[cell["cell"]], look) for cell in cells}
    overall = figures.profile_charts(cells, look)
    every = itertools.chain(overall, *charts.values())
    drawn = {c.name: figures.save(c, folder / figures.FOLDER if c.for_papers else None) for c in every}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda chart: Markup(drawn[chart.name])
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        folder=folder,
        runs=folder / RUNS if (folder / RUNS).exists() else None,
        heading=heading(summary),
        title=title,
        zip=zip,
        comparison=comparison,
        details=details,
        headline=headline,
        caution=caution(summary),
        verdicts=verdicts,
        bounds=bounds,
        overall=overall,
        charts=charts,
        overviews=overviews(summary),
        settings={cell["cell"]: _settings(cell["cell"], results) for cell in cells},
        command=study.get("report") or f"mireg report {folder}",
        study={key: value for key, value in study.items() if key not in ("study", "arms", "report")},
    )
    write_bytes(folder / "report.html", page.encode())


def show(folder: Path, console: Console) -> dict[str, Any]:
    """Write the report of a study's folder, print its tables and where it is, and return the summary."""
    summary = write(folder)
    print_table(summary, console)
    print_places(folder, console)
    return summary


def print_places(folder: Path, console: Console) -> None:
    """Print where the report is, and how to view the curves."""
    console.print(f"report:      {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if (folder / RUNS).exists():
        console.print(f"TensorBoard: tensorboard --logdir {folder / RUNS}", highlight=False, soft_wrap=True)


def _settings(cell: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spec = next(result["spec"] for result in results if result["cell"] == cell)
    return {**spec["cell"], **{f"term {key}": value for key, value in spec["term"].items()}}
