"""Curves that anything logged, as results of runs, and the curves of results as a CSV file."""

from __future__ import annotations

import csv
import io
import itertools
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mireg.ablation.errors import UserError, check, nearest, one_line
from mireg.ablation.study.metric import MODES, Metric

COLUMNS = ("study", "arm", "seed", "step")
"""Columns that every table of curves has, beside one with the metric."""

LOWER = re.compile(r"(^|[\W_])(loss|error|err|perplexity|ppl|nll|mse|rmse|mae)($|[\W_])", re.IGNORECASE)
"""Names of metrics that are better the lower they are."""

RUN_NAME = re.compile(
    r"(?P<arm>.*?)((^|[-_. ]+)((seed|run|version|s)[-_=. ]*)?|seed[-_=. ]*)(?P<seed>\d+)", re.IGNORECASE
)
"""Names of the folders of TensorBoard runs, after which arm and seed are read; resnet18 is an arm without a seed."""

Row = Mapping[str, Any]


def read_curves(source: Any, metric: str | None, mode: str | None, goal: float | None) -> list[dict[str, Any]]:
    """Read curves as results of runs, which :func:`mireg.ablation.report.summary.summarise` takes.

    The budget of a study is its last step. The final metric is the last one, or that of the column ``test_METRIC``. A
    run whose metric is not finite broke there. Rows without a value of the metric are skipped.

    Args:
        source: a CSV file, a folder of TensorBoard runs, a DataFrame or records.
        metric: name of the column or tag; None if there is only one.
        mode: ``"max"`` or ``"min"``; None goes by the name.
        goal: value of the metric to reach.

    Raises:
        UserError: naming what is missing or wrong, and the remedy.
    """
    rows: Sequence[Row]
    if isinstance(source, str | Path) and Path(source).is_dir():
        rows, metric = _scalars(Path(source), metric)
    else:
        rows = _rows(source)
    place = str(source) if isinstance(source, str | Path) else "the records"
    if not rows:
        raise UserError(f"{place}: there are no rows: give columns {', '.join(COLUMNS)} and the metric")
    name = _metric_column(place, list(rows[0]), metric)
    measured = Metric(name, mode or MODES.get(name) or ("min" if LOWER.search(name) else "max"))
    measured.check_goal(goal)
    runs: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for number, row in enumerate(rows, start=2):  # as in a file, whose first line is the header
        where = f"{place}, line {number}"
        if (value := _number(where, row, name)) is None:
            continue
        measured.check(where, value)
        run = _name(where, row, "study"), _name(where, row, "arm"), _whole(where, row, "seed")
        point: dict[str, float] = {"step": _whole(where, row, "step"), "value": value}
        for key, column in (("seconds", "seconds"), ("test", measured.final)):
            if (known := _number(where, row, column)) is not None:
                good = 0 <= known < math.inf if key == "seconds" else math.isfinite(known)
                check(f"{where}: {column}", known, good, "give a finite number (seconds: from 0 on), or nothing")
                point[key] = known
        measured.check(where, point.get("test", 0))
        runs.setdefault(run, []).append(point)
    budgets: dict[str, int] = {}
    for (study, arm, seed), points in runs.items():
        points.sort(key=lambda point: point["step"])
        for before, after in itertools.pairwise(points):
            if before["step"] == after["step"]:
                raise UserError(
                    f"{place}: study {study}, arm {arm}, seed {seed} has two rows of step {after['step']:g}: "
                    "give each run a seed of its own"
                )
        budgets[study] = max(budgets.get(study, 0), int(points[-1]["step"]))
    return [_result(*run, points, measured, goal, budgets[run[0]]) for run, points in runs.items()]


def _result(
    study: str, arm: str, seed: int, points: Sequence[dict[str, float]], metric: Metric, goal: float | None, budget: int
) -> dict[str, Any]:
    """A result as :func:`mireg.ablation.training.run.Run.write` writes it, as far as the curve tells."""
    whole = list(itertools.takewhile(lambda point: math.isfinite(point["value"]), points))
    curve: list[dict[str, Any]] = []
    for last, point in itertools.pairwise([{"step": 0, "seconds": 0.0}, *whole]):
        new: dict[str, Any] = {"step": int(point["step"]), metric.validation: point["value"], "step_ms": None}
        if "seconds" in point:
            new["seconds"] = point["seconds"]
            if "seconds" in last and (taken := new["step"] - last["step"]):
                new["step_ms"] = round(1000 * (new["seconds"] - last["seconds"]) / taken, 3)
        curve.append(new)
    tested = [point["test"] for point in points if "test" in point]
    cell = {"name": study, "metric": metric.name, "mode": metric.mode, "target": goal, "steps": budget}
    return {
        "cell": study,
        "arm": arm,
        "seed": seed,
        "lr": None,
        "failure": f"{metric.name} is not finite" if len(whole) < len(points) else None,
        "seconds": curve[-1].get("seconds") if curve else None,
        "final_split": "test" if tested else "validation",
        metric.final: tested[-1] if tested else curve[-1][metric.validation] if curve else None,
        "curve": curve,
        "spec": {"cell": cell, "arm": arm, "seed": seed, "term": {}},
    }


def check_arms(results: Iterable[Mapping[str, Any]], baseline: str, *, paired: bool) -> None:
    """Refuse a baseline that no study has and, if runs must be paired, seeds that an arm or the baseline has alone.

    Raises:
        UserError: naming the arms, or the seeds without a partner.
    """
    studies: dict[str, dict[str, set[int]]] = {}
    for run in results:
        studies.setdefault(run["cell"], {}).setdefault(run["arm"], set()).add(run["seed"])
    arms = list(dict.fromkeys(itertools.chain(*studies.values())))
    if baseline not in arms:
        raise UserError(
            f"no arm is the baseline {baseline!r}{nearest(baseline, arms)}: choose --baseline from {', '.join(arms)}"
        )
    for study, seeds in studies.items() if paired else ():
        base = seeds.get(baseline, set())
        for arm, own in seeds.items() if base else ():
            for one, other, alone in ((arm, baseline, own - base), (baseline, arm, base - own)):
                if alone:
                    which = f"of arm {one}, seed {', '.join(map(str, sorted(alone)))} has no partner in arm {other}"
                    remedy = "add its curve (if the run broke, a row with nan), or leave that seed out of both"
                    raise UserError(f"study {study}: {which}: {remedy}")


def as_curves(results: Sequence[Mapping[str, Any]]) -> str:
    """Format the curves of runs as CSV, a row per point, in the form that :func:`read_curves` takes.

    A column per metric; ``seconds`` where they are known; and ``test_METRIC``, in the last row of a run, of runs that
    were tested on other data than their curve.
    """
    metrics = {run["cell"]: Metric.of(run["spec"]["cell"]) for run in results}
    names = dict.fromkeys(metric.name for metric in metrics.values())
    tests = dict.fromkeys(metrics[run["cell"]].final for run in results if run.get("final_split", "test") == "test")
    timed = any("seconds" in point for run in results for point in run["curve"])
    rows: list[Row] = []
    for run in results:
        metric, curve = metrics[run["cell"]], run["curve"]
        head = {"study": run["cell"], "arm": run["arm"], "seed": run["seed"]}
        for point in curve:
            row = {**head, **point, metric.name: point[metric.validation]}
            rows.append(row | ({metric.final: run[metric.final]} if point is curve[-1] else {}))
        if run["failure"]:
            rows.append({**head, "step": curve[-1]["step"] + 1 if curve else 0, metric.name: "nan"})
    return csv_text([*COLUMNS, *names, *(["seconds"] if timed else []), *tests], rows)


def csv_text(columns: Sequence[str], rows: Iterable[Row]) -> str:
    """These columns of the rows as CSV; what a row does not have is empty."""
    text = io.StringIO()
    table = csv.DictWriter(text, columns, lineterminator="\n", extrasaction="ignore")
    table.writeheader()
    table.writerows(rows)
    return text.getvalue()


def _rows(source: Any) -> list[Row]:
    """Rows of a CSV file, of a DataFrame (pandas, Polars) or of records."""
    if isinstance(source, str | Path):
        try:
            with Path(source).open(newline="", encoding="utf-8-sig") as file:
                return _table(str(source), csv.DictReader(file, skipinitialspace=True))
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            raise UserError(f"cannot read {source} ({reason}): give a CSV file or a folder of runs") from error
    if not hasattr(source, "to_dict"):
        return list(source)
    frame = source.to_dicts() if hasattr(source, "to_dicts") else source.to_dict("records")
    return [{key: None if value != value else value for key, value in row.items()} for row in frame]  # NaN is missing


def _table(place: str, table: csv.DictReader[str]) -> list[Row]:
    """The rows of a CSV file, without regard to spaces and, in the known columns, to case in its header."""
    header = list(table.fieldnames or ())
    for delimiter in (";", "\t"):
        if len(header) == 1 and delimiter in header[0]:
            raise UserError(f"{place}: the delimiter is {delimiter!r}: use commas, and write decimals with a point")
    header = [one_line(name) for name in header]
    header = [name.lower() if name.lower() in (*COLUMNS, "seconds") else name for name in header]
    for name in filter(None, header):
        if header.count(name) > 1:
            raise UserError(f"{place}: column {name!r} is there twice: rename or remove one")
    table.fieldnames = header
    rows: list[Any] = list(table)
    for number, row in enumerate(rows, start=2):
        if any(row.pop(None, ())):
            raise UserError(f"{place}, line {number}: more fields than columns: write decimals with a point")
    return rows


def _scalars(folder: Path, metric: str | None) -> tuple[list[dict[str, Any]], str]:
    """Rows of TensorBoard runs in ``[STUDY/]ARM/seed-N`` or ``[STUDY/]ARM-seed-N``, and the name of the metric.

    It is a tag, or its end behind a slash; None if there is only one. ``seconds`` are those since the file was opened,
    so evaluation counts.
    """
    found: dict[tuple[str, str, int], Any] = {}
    for path in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if not events.Tags()["scalars"]:
            continue
        *above, last = path.relative_to(folder).parts or (path.name,)
        match = RUN_NAME.fullmatch(last)
        if match is None or not (match["arm"] or above):
            raise UserError(f"{path}: no arm and seed in its name: call the folder of a run ARM/seed-N or ARM-seed-N")
        arm = match["arm"] or above.pop()
        run = "/".join(above) or folder.resolve().name, arm, int(match["seed"])
        if run in found:
            raise UserError(f"{path}: a second run of study {run[0]}, arm {arm}, seed {run[2]}: give it its own seed")
        found[run] = events
    if not found:
        raise UserError(f"{folder} holds neither finished runs nor TensorBoard scalars: give a study's folder or a CSV")
    tags = dict.fromkeys(tag for events in found.values() for tag in events.Tags()["scalars"])
    tag = _tag(folder, list(tags), metric)
    name = tag.removeprefix("validation/") if metric is None else metric
    rows: list[dict[str, Any]] = []
    for (study, arm, seed), events in found.items():
        if tag not in events.Tags()["scalars"]:
            raise UserError(f"{folder}: study {study}, arm {arm}, seed {seed} has no tag {tag!r}: log it, or remove it")
        began = events.FirstEventTimestamp()
        for event in events.Scalars(tag):
            row = {"study": study, "arm": arm, "seed": seed, "step": event.step, name: event.value}
            rows.append({**row, "seconds": max(0.0, event.wall_time - began)})
    return rows, name


def _tag(folder: Path, tags: Sequence[str], metric: str | None) -> str:
    fitting = [tag for tag in tags if metric is None or tag.endswith(f"/{metric}")]
    chosen = [metric] if metric in tags else fitting
    if len(chosen) != 1:
        what = "several tags" if metric is None else f"no single tag {metric!r}{nearest(metric, tags)}"
        raise UserError(f"{folder} has {what}: name one with --metric from {', '.join(tags)}")
    return str(chosen[0])


def _metric_column(place: str, columns: Sequence[str], metric: str | None) -> str:
    for name in COLUMNS:
        if name not in columns:
            remedy = "one name for all rows will do" if name == "study" else "or rename the one that has it"
            guess = nearest(name, columns)
            raise UserError(f"{place}: column {name!r} is missing{guess} among {', '.join(columns)}: add it, {remedy}")
    measured = [c for c in columns if c and c not in (*COLUMNS, "seconds") and not c.startswith("test_")]
    if metric is None and not measured:
        raise UserError(f"{place} has no column with a metric, only {', '.join(columns)}: add it under its name")
    if metric is None and len(measured) == 1:
        return measured[0]
    if metric in columns:
        return str(metric)
    problem = "has several columns" if metric is None else f"has no column {metric!r}{nearest(metric, measured)}"
    raise UserError(f"{place} {problem}: choose --metric from {', '.join(measured)}")


def _name(where: str, row: Row, name: str) -> str:
    """A name in a row, in one line."""
    text = "" if row.get(name) is None else one_line(row[name])
    check(f"{where}: {name}", text, bool(text), "give a name")
    return text


def _number(where: str, row: Row, name: str) -> float | None:
    """A number of a row; None for an empty field."""
    value = row.get(name)
    if value is None or value == "":
        return None
    try:
        return float(value)
    except (TypeError, ValueError):
        raise UserError(f"{where}: {name} is {value!r}: give a number, or nothing") from None


def _whole(where: str, row: Row, name: str) -> int:
    number = _number(where, row, name)
    if number is None or not number.is_integer() or not 0 <= number <= 2**53:  # above, a float is not exact
        raise UserError(f"{where}: {name} is {row.get(name)!r}: give a whole number, at most 2**53")
    return int(number)
