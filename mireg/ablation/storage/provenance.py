"""What a study's folder says about how its results came to be."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mireg.ablation.errors import UserError
from mireg.ablation.storage.files import read_json, write_json
from mireg.ablation.study.config import Study
from mireg.version import __version__

RECORD = "study.json"

RUNS = "runs"
"""Folder of the runs inside a study's, and the log directory for TensorBoard."""

TUNING = "tuning.json"
"""In a study's folder: by cell and arm, the rate that was chosen and what it was chosen from."""

Choices = dict[str, dict[str, dict[str, Any]]]


def record_study(study: Study, out: Path, device: str) -> list[str]:
    """Write the study and this invocation into its folder; cells, arms and seeds may be added to it.

    Args:
        study: resolved.
        out: its folder.
        device: trained on.

    Returns:
        Notes for the user: a damaged record, packages that changed since the last invocation.

    Raises:
        UserError: if the folder holds another study, or this one with other settings; the difference is shown.
    """
    notes = []
    old = read_json(out / RECORD)
    if not isinstance(old, dict) or "invocations" not in old:
        if (out / RECORD).exists():
            notes.append(f"{out / RECORD} is damaged or of an earlier version: it is written anew")
        old = {"study": study.name, "arms": [], "seeds": [], "configuration": {}, "invocations": []}
    if old["study"] != study.name:
        raise UserError(f"{out} holds the study {old['study']!r}, not {study.name!r}: give another --out")
    tuning, before = _tuning(study), old.get("tuning", {})
    if old["invocations"]:
        if before and tuning:  # cells may be added
            for key in BY_CELL:
                was, now = before.get(key, {}), tuning[key]
                before, tuning = {**before, key: {**now, **was}}, {**tuning, key: {**was, **now}}
        refuse_changes(f"the tuning in {out}", before, tuning)
    configuration = old["configuration"]
    for spec in study.runs():
        arms = configuration.setdefault(spec.cell.name, {})
        chosen = settings(spec.as_dict())
        if study.tuning:
            chosen["cell"] = {key: value for key, value in chosen["cell"].items() if key != "lr"}  # not chosen yet
        refuse_changes(f"{spec.cell.name}/{spec.arm} in {out}", arms.setdefault(spec.arm, chosen), chosen)
    versions = _versions()
    for earlier in old["invocations"][-1:]:
        changed = differences(earlier["versions"], versions)
        if changed:
            notes.append(f"packages changed since the last time ({'; '.join(changed)}): results may differ in the end")
    record = {
        "study": study.name,
        "arms": list(dict.fromkeys([*old["arms"], *study.all_arms])),
        "seeds": sorted({*old["seeds"], *study.seed_numbers}),
        "configuration": configuration,
        "tuning": tuning,
        "invocations": [*old["invocations"], invocation(device)],
    }
    write_json(out / RECORD, record)
    return notes


def invocation(device: str) -> dict[str, Any]:
    """What this process is, and where it runs."""
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "commit": _commit(),
        "host": platform.node(),
        "device": device,
        "processor": processor(),
        "versions": _versions(),
    }


def processor() -> str:
    """Model and number of this machine's processors."""
    info = Path("/proc/cpuinfo")  # platform knows no more than x86_64 on Linux
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{models[0] if models else platform.processor()}, {os.cpu_count()} cores"


BY_CELL = ("steps", "lrs_of")
"""What a study's record of its tuning has cell by cell."""


def _tuning(study: Study) -> dict[str, Any]:
    """The grid, its seeds and, by cell, the budget of a tuning run and a grid of its own; empty without tuning."""
    if study.tuning is None:
        return {}
    steps = {cell.name: study.tuning_runs(cell)[0].cell.steps for cell in study.cells}
    own = {
        cell.name: {arm: lrs for arm in study.arms_of(cell) if (lrs := study.lrs_of(cell, arm)) != study.tuning.lrs}
        for cell in study.cells
    }
    own = {cell: arms for cell, arms in own.items() if arms}
    return {key: plain(value) for key, value in {**asdict(study.tuning), "steps": steps, "lrs_of": own}.items()}


OF_THE_STUDY = ("arms", "seeds", "tuning_steps", "tuning_lrs", "arm_tuning_lrs")
"""Of a cell's fields, those that say which runs there are, and change none."""


def settings(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """What decides the outcome of a run beside its seed, in plain types, from a specification as a dictionary."""
    cell = {key: value for key, value in plain(spec["cell"]).items() if key not in OF_THE_STUDY}
    lr = cell.pop("arm_lr").get(spec["arm"], cell["lr"])  # another arm's rate is no business of this one
    return {"cell": {**cell, "lr": lr}, "term": plain(spec["term"])}


def refuse_changes(where: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Refuse settings that differ from those that results were made with.

    Raises:
        UserError: naming every difference.
    """
    changed = differences(old, new)
    if changed:
        raise UserError(f"{where} has other settings ({'; '.join(changed)}): go back to those, or give another --out")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """The settings in which two nested dictionaries differ, one of them unset or both of other values.

    >>> differences({"cell": {"lr": 0.1, "steps": 9}}, {"cell": {"lr": 0.2, "steps": 9}})
    ['cell.lr: 0.1 → 0.2']
    """
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'unset')} → {after.get(key, 'unset')}"
        for key in {**before, **after}
        if before.get(key, _UNSET) != after.get(key, _UNSET)
    ]


_UNSET = object()


def plain(value: Any) -> Any:
    """A value as it comes back from JSON."""
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), "mireg": __version__, **packages}


def _commit() -> str | None:
    """The commit that the source stands at, marked if files were changed since; None outside a repository."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def read_tuning(folder: Path) -> Choices:
    """What was chosen so far; empty without tuning."""
    found = read_json(folder / TUNING)
    return found if isinstance(found, dict) else {}


def write_tuning(folder: Path, cell: str, arms: Mapping[str, dict[str, Any]]) -> None:
    """Add the choices of a cell's arms to those of the study."""
    record = read_tuning(folder)
    record[cell] = {**record.get(cell, {}), **arms}
    write_json(folder / TUNING, record)
