"""Archive a study's results in a form small enough to keep with the source, and go on from there.

python -m eval.report DIR --archive TARGET
python -m eval.report TARGET --unpack DIR --cells CELL ...
python -m eval.report TARGET --drop ARM ... --cells CELL ...
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mireg.ablation.report.sources import ARCHIVE, load_results, read_lines
from mireg.ablation.storage.changes import differences
from mireg.ablation.storage.files import read_json, write_bytes, write_json, write_result
from mireg.ablation.storage.provenance import RECORD, RUNS
from mireg.ablation.storage.rates import TUNING, read_tuning
from mireg.ablation.study.metric import Metric

KEPT = ("step", "seconds", "step_ms")
"""Keys kept of each point of a curve, in addition to the metric."""


BY_CELL = ("steps", "lrs_of")
"""Keys of the record of tuning whose values are per cell."""


def add(folder: Path, target: Path) -> None:
    """Add the runs of a study's folder to an archive, replacing earlier results of the same arms of a cell.

    The other arms of a cell stay if its settings are the same; otherwise the cell is replaced whole.

    The archive has a line per run, with its specification and the curve of its metric, but no weights or MI; how the
    learning rates were chosen; and the study's record without host name and paths. The same runs give the same bytes.

    Args:
        folder: folder of the study.
        target: folder of the archive, created if necessary; its other cells are kept.

    Raises:
        FileNotFoundError: if the study has no finished run.
        ValueError: if the archive belongs to another study, or to one with different tuning.
    """
    fresh = [_lean(result) for result in load_results(folder)]
    cells = sorted({result["cell"] for result in fresh})
    before, now = read_json(target / RECORD) or {}, read_json(folder / RECORD) or {"study": folder.name}
    joined = [cell for cell in cells if _same_settings(before, now, cell)]
    record = _merged(before, now, cells, joined)
    arms = {(result["cell"], result["arm"]) for result in fresh}
    old = read_lines(target / ARCHIVE) if (target / ARCHIVE).exists() else []
    replaced = {cell for cell in cells if cell not in joined}
    kept = [run for run in old if run["cell"] not in replaced and (run["cell"], run["arm"]) not in arms]
    chosen = read_tuning(folder)
    choices = {cell: chosen[cell] for cell in cells if cell in chosen}
    _write(target, [*fresh, *kept], record, _with_arms(read_tuning(target), choices, cells, joined))


def _write(
    target: Path, results: list[dict[str, Any]], record: Mapping[str, Any], tuning: Mapping[str, Mapping[str, Any]]
) -> None:
    results.sort(key=lambda result: (result["cell"], result["arm"], f"seed-{result['seed']}"))  # in folder order
    lines = "".join(json.dumps(result, allow_nan=False, separators=(",", ":")) + "\n" for result in results)
    write_bytes(target / ARCHIVE, gzip.compress(lines.encode(), mtime=0))
    write_json(target / RECORD, record)
    if tuning or (target / TUNING).exists():
        write_json(target / TUNING, dict(sorted(tuning.items())))


def drop(target: Path, arms: Sequence[str], cells: Sequence[str]) -> int:
    """Remove arms of cells from an archive, with their settings and learning rates; the other arms stay.

    Args:
        target: folder of the archive.
        arms: names of the arms; those that a cell does not have are ignored.
        cells: names of the cells.

    Returns:
        The number of runs that were removed.
    """

    def without(by_cell: Mapping[str, Any]) -> dict[str, Any]:
        return {
            cell: {arm: of for arm, of in by_arm.items() if cell not in cells or arm not in arms}
            for cell, by_arm in by_cell.items()
        }

    before, record = read_lines(target / ARCHIVE), read_json(target / RECORD)
    results = [run for run in before if run["cell"] not in cells or run["arm"] not in arms]
    tuning = record.get("tuning", {})
    if "lrs_of" in tuning:
        tuning = {**tuning, "lrs_of": without(tuning["lrs_of"])}
    record = {**record, "configuration": without(record["configuration"]), "tuning": tuning}
    _write(target, results, record, without(read_tuning(target)))
    return len(before) - len(results)


def unpack(source: Path, folder: Path, cells: Sequence[str]) -> None:
    """Write cells of an archive to a new folder of a study, to which ``train.py --out`` adds seeds and arms.

    The runs and the chosen learning rates are kept; the weights and TensorBoard curves of these runs are not in the
    archive.

    Args:
        source: folder of the archive.
        folder: folder of the study, which must not exist or be empty.
        cells: names of the cells.

    Raises:
        FileNotFoundError: if there is no such archive.
        FileExistsError: if the folder has files.
        ValueError: if the archive has no such cell, or cells that are tuned and others that are not.
    """
    results = [run for run in load_results(source) if run["cell"] in cells]
    if unknown := sorted({*cells} - {run["cell"] for run in results}):
        raise ValueError(f"{source} has no runs of {', '.join(unknown)}: name cells that it has")
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty: give a new folder to --unpack")
    record = read_json(source / RECORD)
    tuning, choices = record.get("tuning", {}), read_tuning(source)
    tuned = {cell for cell in cells if cell in tuning.get("steps", {})}
    if tuned and tuned != {*cells}:
        raise ValueError(f"only {', '.join(sorted(tuned))} of these cells have tuned rates: unpack them separately")
    for run in results:
        write_result(folder / RUNS / run["cell"] / run["arm"] / f"seed-{run['seed']}" / "result.json", run)
    if tuned:
        of_cells = {key: {cell: of for cell, of in tuning.get(key, {}).items() if cell in cells} for key in BY_CELL}
        write_json(folder / TUNING, {cell: choices[cell] for cell in cells})
    write_json(
        folder / RECORD,
        {
            "study": record["study"],
            "arms": sorted({run["arm"] for run in results}),
            "seeds": sorted({run["seed"] for run in results}),
            "configuration": {cell: record["configuration"][cell] for cell in cells},
            "tuning": {**tuning, **of_cells} if tuned else {},
            "invocations": [call for cell in cells for call in _calls(record["made"][cell])],
        },
    )


def _calls(made: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The invocations that an archive remembers of a cell, as far as it does."""
    each = itertools.zip_longest(made["commits"], made["processors"], made["devices"], fillvalue="")
    return [
        {"commit": commit, "processor": processor, "device": device, "versions": made["versions"]}
        for commit, processor, device in each
    ]


def _lean(result: dict[str, Any]) -> dict[str, Any]:
    kept = (*KEPT[:2], Metric.of(result["spec"]["cell"]).validation, *KEPT[2:])
    curve = [{key: point[key] for key in kept if key in point} for point in result["curve"]]
    return {key: value for key, value in result.items() if key != "weights_sha256"} | {"curve": curve}


def _same_settings(old: Mapping[str, Any], new: Mapping[str, Any], cell: str) -> bool:
    """Whether all arms of a cell, in the archive and in the study that is added, have the same settings."""
    steps = {record.get("tuning", {}).get("steps", {}).get(cell) for record in (old, new)}
    records = [record.get("configuration", {}).get(cell, {}) for record in (old, new)]
    settings = [
        # Some arms change the model's options; what was not yet a setting is None.
        {key: value for key, value in of_arm["cell"].items() if key != "model_options" and value is not None}
        for record in records
        for of_arm in record.values()
    ]
    return all(records) and len(steps) == 1 and all(each == settings[0] for each in settings)


def _merged(
    old: Mapping[str, Any], new: Mapping[str, Any], cells: Sequence[str], joined: Sequence[str]
) -> dict[str, Any]:
    """Merge the record of an archive with that of the study whose cells are added, or joined to their other arms."""
    if old and old["study"] != new["study"]:
        raise ValueError(f"the archive is of the study {old['study']!r}, not {new['study']!r}: give another --archive")
    tuning, before = (dict(record.get("tuning", {})) for record in (new, old))
    by_cell = {key: _with_arms(before.pop(key, {}), tuning.pop(key, {}), cells, joined) for key in BY_CELL}
    changed = differences(before, tuning) if before and tuning else []
    if changed:
        raise ValueError(f"the archive was tuned otherwise ({'; '.join(changed)}): give another --archive")
    invocations = new.get("invocations", [])
    made = {
        "commits": sorted({invocation["commit"] for invocation in invocations if invocation["commit"]}),
        "processors": sorted({invocation.get("processor", "") for invocation in invocations} - {""}),
        "devices": sorted({invocation.get("device", "") for invocation in invocations} - {""}),
        "versions": invocations[-1]["versions"] if invocations else {},
    }
    added = {cell: new.get("configuration", {}).get(cell, {}) for cell in cells}
    configuration = _with_arms(old.get("configuration", {}), added, cells, joined)
    made_of = {cell: _with(old["made"][cell], made) if cell in joined else made for cell in cells}
    return {
        "study": new["study"],
        "arms": list(dict.fromkeys([*old.get("arms", []), *new.get("arms", [])])),
        "seeds": sorted({*old.get("seeds", []), *new.get("seeds", [])}),
        "configuration": dict(sorted(configuration.items())),
        "tuning": {**before, **tuning, **{key: dict(sorted(of.items())) for key, of in by_cell.items() if of}},
        "made": dict(sorted({**old.get("made", {}), **made_of}.items())),
    }


def _with_arms(
    old: Mapping[str, Any], new: Mapping[str, Any], cells: Sequence[str], joined: Sequence[str]
) -> dict[str, Any]:
    """Values by cell: new ones in place of those of these cells; in a cell that is joined, arm by arm if by arm."""
    kept = {cell: of for cell, of in old.items() if cell not in cells or cell in joined}
    return {
        **kept,
        **{
            cell: {**old.get(cell, {}), **of} if cell in joined and isinstance(of, Mapping) else of
            for cell, of in new.items()
        },
    }


def _with(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    """How a cell was made whose arms come from two studies: both, and the versions of the later one."""
    return {key: of if key == "versions" else sorted({*old[key], *of}) for key, of in new.items()}
