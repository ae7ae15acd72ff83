"""The report on results: their summary, tables, charts and page, in one folder."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from markupsafe import Markup
from rich.console import Console

from mireg.ablation.report import figures
from mireg.ablation.report.curves import as_curves
from mireg.ablation.report.tables import (
    as_csv,
    as_latex,
    as_markdown,
    caution,
    comparison,
    details,
    heading,
    overviews,
    title,
)
from mireg.ablation.report.verdicts import bounds, headline, verdicts
from mireg.ablation.storage.files import write_bytes, write_json
from mireg.ablation.storage.provenance import RUNS


def publish(folder: Path, results: Sequence[dict[str, Any]], study: Mapping[str, Any], summary: dict[str, Any]) -> None:
    """Write a report into a folder; the record of the study is at the end of the page.

    ``summary.json``; ``report.html``, the page; ``report.md`` and ``tables.tex``, the tables; ``runs.csv``, a row per
    run; ``curves.csv``, a row per point; and ``figures/``, the main charts as PNG, SVG and PDF.
    """
    cells = summary["cells"]
    runs = {cell["cell"]: figures.runs_of(cell, results) for cell in cells}
    look = figures.lines(list(dict.fromkeys(arm for cell in cells for arm in cell["arms"])))
    charts = {cell["cell"]: figures.cell_charts(cell, runs[cell["cell"]], look) for cell in cells}
    drawn = {chart.name: figures.drawn(chart) for of in charts.values() for chart in of}
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters["svg"] = lambda chart: Markup(drawn[chart.name][0])
    environment.globals |= {use.__name__: use for use in (bounds, comparison, details, headline, title, verdicts, zip)}
    page = environment.get_template("report.html.j2").render(
        summary=summary,
        folder=folder,
        runs=folder / RUNS if (folder / RUNS).exists() else None,
        heading=heading(summary),
        caution=caution(summary),
        charts=charts,
        overviews=overviews(summary),
        settings={cell["cell"]: _settings(cell["cell"], results) for cell in cells},
        command=study["report"],
        study={key: value for key, value in study.items() if key not in ("study", "arms", "report")},
    )
    in_order = itertools.chain.from_iterable(itertools.chain(*of.values()) for of in runs.values())
    texts = {
        "report.md": as_markdown(summary),
        "tables.tex": as_latex(summary),
        "runs.csv": as_csv(results, summary),
        "curves.csv": as_curves(list(in_order)),
        "report.html": page,
    }
    files = {name: text.encode() for name, text in texts.items()}
    files |= {f"{figures.FOLDER}/{name}": data for _, of_chart in drawn.values() for name, data in of_chart.items()}
    write_json(folder / "summary.json", summary)
    for name, data in files.items():
        write_bytes(folder / name, data)


def print_places(folder: Path, console: Console) -> None:
    """Print where the report is, and how to view the curves."""
    console.print(f"report:      {folder / 'report.html'}", highlight=False, soft_wrap=True)
    if (folder / RUNS).exists():
        console.print(f"TensorBoard: tensorboard --logdir {folder / RUNS}", highlight=False, soft_wrap=True)


def _settings(cell: str, results: Sequence[dict[str, Any]]) -> dict[str, Any]:
    spec = next(result["spec"] for result in results if result["cell"] == cell)
    return {**spec["cell"], **{f"term {key}": value for key, value in spec["term"].items()}}
