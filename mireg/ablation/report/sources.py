"""What is reported on: the finished runs of a study, CSV files, DataFrames and TensorBoard runs."""

from __future__ import annotations

import gzip
import json
import shlex
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from mireg.ablation.arms import BASELINE
from mireg.ablation.errors import UserError
from mireg.ablation.report.curves import check_arms, read_curves
from mireg.ablation.report.page import print_places, publish
from mireg.ablation.report.summary import side_by_side, summarise
from mireg.ablation.report.tables import print_table
from mireg.ablation.storage.files import DamagedError, read_json, read_result
from mireg.ablation.storage.provenance import RECORD
from mireg.ablation.storage.rates import read_tuning
from mireg.ablation.study.metric import Metric

ARCHIVE = "results.jsonl.gz"
"""File in an archive's folder, with a line per run."""

RESULTS = "runs/*/*/*/result.json"
"""The files of the runs in a study's folder."""


def report(
    *curves: Any,
    baseline: str | None = None,
    goal: float | None = None,
    metric: str | None = None,
    mode: str | None = None,
    out: str | Path | None = None,
) -> dict[str, Any]:
    """Report on curves that anything logged, with the tables, tests and charts of a study.

    Args:
        curves: a CSV file, a DataFrame or records with columns ``study``, ``arm``, ``seed``, ``step``, the metric and,
            optionally, ``seconds``; a folder of TensorBoard runs (``[STUDY/]ARM/seed-N``); or a study's folder. With
            two or more, each arm is also compared with the same arm of the first.
        baseline: the arm with which the others are compared; by default ``"none"``.
        goal: value of the metric to reach; steps and seconds to it are compared. None compares only the final values,
            or keeps a study's own goal.
        metric: name of the column or tag; it can be left out if there is only one.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is; by default as the name of the metric suggests.
        out: folder of the report; by default that of a single study, else ``out/`` and the name of the file.

    Returns:
        The summary, as in ``summary.json``.

    Raises:
        UserError: naming the column, seed, arm or metric that is missing, and the remedy.
        FileNotFoundError: if a study has no finished run.

    >>> rows = [
    ...     {"study": "s", "arm": arm, "seed": seed, "step": step, "f1": step * speed / 100}
    ...     for arm, speed in (("adam", 1), ("lion", 2)) for seed in range(6) for step in (10, 20, 40)
    ... ]
    >>> summary = report(rows, baseline="adam", goal=0.4, out=getfixture("tmp_path"))
    >>> summary["cells"][0]["arms"]["lion"]["vs_none"]["steps_ratio"]
    2.0
    """
    if not curves:
        raise UserError("no curves to report on: give a CSV file, records, or a folder of runs")
    folder, compared = destination(curves, out), baseline or BASELINE
    studies: dict[str, list[dict[str, Any]]] = {}
    arms: list[str] = []
    for source in curves:
        name = name_of(source)
        while name in studies:
            name += "-again"
        record: dict[str, Any] = {}
        if is_study(source):
            record = {"study": name, "arms": [], **(read_json(Path(source) / RECORD) or {})}
            arms += record["arms"]
            studies[name] = [_changed(run, goal, metric, mode) for run in load_results(Path(source))]
        else:
            studies[name] = read_curves(source, metric, mode, goal)
            arms += [run["arm"] for run in studies[name]]
        if baseline or not record:  # a study may have left the baseline out
            check_arms(studies[name], compared, paired=not record)
    if len(studies) > 1:
        record, joined = {}, [_renamed(run, study) for study, results in studies.items() for run in results]
    else:
        (joined,) = studies.values()
    if record:
        summary = summary_of(Path(curves[0]), joined, record, compared)
    else:
        summary = summarise(" and ".join(studies), joined, list(dict.fromkeys(arms)), baseline=compared)
    if len(studies) > 1:
        summary["side_by_side"] = side_by_side(studies)
    options = {"baseline": baseline, "goal": goal, "metric": metric, "mode": mode, "out": out}
    words = [f"--{name} {shlex.quote(str(value))}" for name, value in options.items() if value is not None]
    named = [shlex.quote(str(source)) if isinstance(source, str | Path) else "CURVES" for source in curves]
    publish(folder, joined, {**record, "report": " ".join(["mireg report", *named, *words])}, summary)
    return summary


def summary_of(
    folder: Path, results: Sequence[dict[str, Any]], study: Mapping[str, Any], baseline: str = BASELINE
) -> dict[str, Any]:
    """The summary of a study's runs, with what its folder and record add."""
    summary = summarise(study["study"], results, study["arms"], read_tuning(folder), baseline)
    return summary | ({"changed_code": changed} if (changed := study.get("changed_code")) else {})


def show(folder: Path, console: Console) -> dict[str, Any]:
    """Write the report of a study's folder, print its tables and where it is, and return the summary."""
    summary = report(folder)
    print_table(summary, console)
    print_places(folder, console)
    return summary


def load_results(folder: Path) -> list[dict[str, Any]]:
    """Load all finished runs of a study's folder, or of an archive (``python -m eval.report DIR --archive TARGET``).

    Raises:
        FileNotFoundError: if there is none.
        DamagedError: if a file is damaged.
    """
    if not (folder / "runs").exists() and (folder / ARCHIVE).exists():
        return read_lines(folder / ARCHIVE)
    paths = sorted(folder.glob(RESULTS))
    if not paths:
        raise FileNotFoundError(f"{folder} holds no finished run ({RESULTS})")
    return [result for path in paths if (result := read_result(path)) is not None]


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the runs of an archive, or raise a DamagedError."""
    try:
        return [json.loads(line) for line in gzip.decompress(path.read_bytes()).splitlines()]
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise DamagedError(f"{path} is damaged") from error


def destination(curves: Sequence[Any], out: str | Path | None) -> Path:
    """The folder of the report, which overwrites neither its sources nor, unasked, that of another study."""
    if out is None and len(curves) == 1 and is_study(curves[0]):
        return Path(curves[0])
    folder = Path("out") / "-".join(map(name_of, curves)) if out is None else Path(out)
    if out is None and is_study(folder):
        raise UserError(f"{folder} is the folder of another study: give --out (out=)")
    for source in curves:
        written = [(folder / name).resolve() for name in ("runs.csv", "curves.csv")]
        if isinstance(source, str | Path) and Path(source).resolve() in written:
            raise UserError(f"{source} would be overwritten by the report: give another --out (out=)")
    return folder


def name_of(source: Any) -> str:
    """What a source is called: the name of its file or folder."""
    return Path(source).resolve().stem if isinstance(source, str | Path) else "curves"


def is_study(source: Any) -> bool:
    """Whether it is the folder of a study, or an archive."""
    if not isinstance(source, str | Path):
        return False
    folder = Path(source)
    return any((folder / name).exists() for name in (RECORD, ARCHIVE)) or any(folder.glob(RESULTS))


def _changed(run: dict[str, Any], goal: float | None, metric: str | None, mode: str | None) -> dict[str, Any]:
    """A run of a study with another goal."""
    cell = run["spec"]["cell"]
    own = Metric.of(cell)
    for name, given, has in (("metric", metric, own.name), ("mode", mode, own.mode)):
        if given not in (None, has):
            raise UserError(f"--{name} {given}: the runs of {run['cell']} have {name} {has}; leave --{name} out")
    target = cell["target"] if goal is None else goal
    own.check_goal(target)
    return {**run, "spec": {**run["spec"], "cell": {**cell, "target": target}}}


def _renamed(run: dict[str, Any], study: str) -> dict[str, Any]:
    """A run whose cell is named after its study too."""
    cell = run["spec"]["cell"]
    parent = cell.get("budget_of")
    changed = {**cell, "name": f"{study}/{cell['name']}", "budget_of": f"{study}/{parent}" if parent else None}
    return {**run, "cell": changed["name"], "spec": {**run["spec"], "cell": changed}}
