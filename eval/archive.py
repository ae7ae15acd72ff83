"""Archive a study's results in a form small enough to keep with the source.

python -m eval.report DIR --archive TARGET
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.results import ARCHIVE, load_results, read_lines
from mireg.ablation.storage.files import read_json, write_bytes, write_json
from mireg.ablation.storage.provenance import BY_CELL, RECORD, TUNING, differences, read_tuning
from mireg.ablation.study.metric import Metric

KEPT = ("step", "seconds", "step_ms")
"""Keys kept of each point of a curve, in addition to the metric."""


def add(folder: Path, target: Path) -> None:
    """Add the cells of a study's folder to an archive, replacing earlier results of these cells.

    The archive has a line per run, with its specification, the curve of its metric and, for the baseline and the term,
    the information plane, but no weights or MI; how the learning rates were chosen; and the study's record without host
    name and paths. The same runs give the same bytes.

    Args:
        folder: folder of the study.
        target: folder of the archive, created if necessary; its other cells are kept.

    Raises:
        FileNotFoundError: if the study has no finished run.
        ValueError: if the archive belongs to another study, or to one with different tuning.
    """
    fresh = [_lean(result) for result in load_results(folder)]
    cells = sorted({result["cell"] for result in fresh})
    record = _merged(read_json(target / RECORD) or {}, read_json(folder / RECORD) or {"study": folder.name}, cells)
    old = read_lines(target / ARCHIVE) if (target / ARCHIVE).exists() else []
    results = [*fresh, *(result for result in old if result["cell"] not in cells)]
    results.sort(key=lambda result: (result["cell"], result["arm"], f"seed-{result['seed']}"))  # in folder order
    lines = "".join(json.dumps(result, allow_nan=False, separators=(",", ":")) + "\n" for result in results)
    chosen = read_tuning(folder)
    tuning = {**read_tuning(target), **{cell: chosen[cell] for cell in cells if cell in chosen}}
    write_bytes(target / ARCHIVE, gzip.compress(lines.encode(), mtime=0))
    write_json(target / RECORD, record)
    if tuning:
        write_json(target / TUNING, dict(sorted(tuning.items())))


def _lean(result: dict[str, Any]) -> dict[str, Any]:
    kept: tuple[str, ...] = (*KEPT[:2], Metric.of(result["spec"]["cell"]).validation, *KEPT[2:])
    if result["arm"] in (BASELINE, TERM):
        kept = (*kept, "plane")
    curve = [{key: _rounded(point[key]) for key in kept if key in point} for point in result["curve"]]
    return {key: value for key, value in result.items() if key != "weights_sha256"} | {"curve": curve}


def _rounded(value: Any) -> Any:
    """Round the information plane to a thousandth of a nat; other values are unchanged."""
    if not isinstance(value, dict):
        return value
    return {key: [None if nats is None else round(nats, 3) for nats in of] for key, of in value.items()}


def _merged(old: Mapping[str, Any], new: Mapping[str, Any], cells: Sequence[str]) -> dict[str, Any]:
    """Merge the record of an archive with that of the study whose cells are added."""
    if old and old["study"] != new["study"]:
        raise ValueError(f"the archive is of the study {old['study']!r}, not {new['study']!r}: give another --archive")
    tuning, before = (dict(record.get("tuning", {})) for record in (new, old))
    by_cell = {key: {**before.pop(key, {}), **tuning.pop(key, {})} for key in BY_CELL}
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
    configuration = {cell: new.get("configuration", {}).get(cell, {}) for cell in cells}
    return {
        "study": new["study"],
        "arms": list(dict.fromkeys([*old.get("arms", []), *new.get("arms", [])])),
        "seeds": sorted({*old.get("seeds", []), *new.get("seeds", [])}),
        "configuration": dict(sorted({**old.get("configuration", {}), **configuration}.items())),
        "tuning": {**before, **tuning, **{key: dict(sorted(of.items())) for key, of in by_cell.items() if of}},
        "made": dict(sorted({**old.get("made", {}), **dict.fromkeys(cells, made)}.items())),
    }
