"""Provenance of the results in a study's folder."""

from __future__ import annotations

import datetime
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict, fields
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from mireg.ablation.errors import UserError
from mireg.ablation.storage.files import read_json, write_json
from mireg.ablation.study.config import Cell, Study
from mireg.version import __version__

RECORD = "study.json"

RUNS = "runs"
"""Name of the folder with a study's runs, the log directory for TensorBoard."""

TUNING = "tuning.json"
"""File in a study's folder with the chosen and the tried learning rates, by cell and arm."""

Choices = dict[str, dict[str, dict[str, Any]]]


def record_study(study: Study, out: Path, code: Mapping[str, str], *, keep: bool = False) -> list[str]:
    """Record the study, with all settings resolved, in its folder; a later call may add cells, arms and seeds.

    Args:
        study: the study.
        out: its folder.
        code: digests of the user's code (:func:`mireg.ablation.fingerprint.fingerprint`).
        keep: keep results of code that has changed since.

    Returns:
        Notes for the user: a damaged record, packages that changed since the last invocation.

    Raises:
        UserError: showing the difference, if the folder has another study, other settings, or results of other code.
    """
    notes = []
    record = read_json(out / RECORD)
    if not _is_record(record):
        if (out / RECORD).exists():
            notes.append(f"{out / RECORD} is damaged or of an earlier version: it is written anew")
        record = {"study": study.name, "arms": [], "seeds": [], "configuration": {}, "invocations": []}
    if record["study"] != study.name:
        raise UserError(f"{out} holds the study {record['study']!r}, not {study.name!r}: give another --out")
    configuration = record["configuration"]
    tuning, before = _tuning(study), record.get("tuning", {})
    if configuration:
        if before and tuning:  # cells and arms may be added
            before, tuning = _completed(before, tuning), _completed(tuning, before)
        refuse_changes(f"the tuning in {out}", before, tuning)
    cells = {cell.name: cell for cell in study.cells}
    for spec in study.runs():
        arms = configuration.setdefault(spec.cell.name, {})
        chosen = settings(spec.as_dict())
        if study.is_tuned(cells[spec.cell.name]):
            del chosen["cell"]["lr"]  # not chosen yet
        refuse_changes(f"{spec.cell.name}/{spec.arm} in {out}", arms.setdefault(spec.arm, chosen), chosen)
    known = record.get("code", {})
    has_results = any(True for name in ("result.json", "checkpoint.pt") for _ in out.rglob(name))
    changed = [name for name in code if has_results and known.get(name, code[name]) != code[name]]
    if changed and not keep:
        raise UserError(
            f"{out} holds results of other code ({', '.join(changed)} changed): begin again with --fresh "
            "(compare: fresh=True), give another --out (out=), or keep them with --keep (keep=True)"
        )
    versions = _versions()
    for earlier in record["invocations"][-1:]:
        if moved := differences(earlier["versions"], versions):
            notes.append(f"packages changed since the last time ({'; '.join(moved)}): results may differ in the end")
    record |= {
        "arms": list(dict.fromkeys([*record["arms"], *study.all_arms])),
        "seeds": sorted({*record["seeds"], *study.seed_numbers}),
        "tuning": tuning,
        "code": {**known, **code},
        "changed_code": sorted({*record.get("changed_code", []), *changed}),
    }
    write_json(out / RECORD, record)
    return notes


def _is_record(found: Any) -> bool:
    return isinstance(found, dict) and {"configuration", "invocations"} <= set(found)


def remove_results(out: Path) -> None:
    """Remove what a study has written into its folder, except its reports; refuse folders that are of no study."""
    for folder in (out / RUNS, out / "tuning"):
        if folder.exists() and not _is_record(read_json(out / RECORD)):
            raise UserError(f"{folder} is of no study, and is not removed: move it, or give another --out (out=)")
        shutil.rmtree(folder, ignore_errors=True)
    for file in (out / RECORD, out / TUNING):
        file.unlink(missing_ok=True)


def record_invocation(out: Path, device: str, runs: int) -> None:
    """Add this call to the record of a study: its command, which reproduces what it runs, commit, machine, versions."""
    invocation = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "commit": _commit(),
        "host": platform.node(),
        "device": device,
        "processor": processor(),
        "versions": _versions(),
        "runs": runs,
    }
    record = read_json(out / RECORD)
    record["invocations"].append(invocation)
    write_json(out / RECORD, record)


def processor() -> str:
    """Model of this machine's processor, its number of cores, and the instructions that PyTorch uses.

    Results are the same to the bit only where these instructions are.
    """
    info = Path("/proc/cpuinfo")  # on Linux, platform only gives x86_64
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def _tuning(study: Study) -> dict[str, Any]:
    """The grid, its seeds and, by cell, the budget of a tuning run and any separate grid; empty without tuning."""
    if study.tuning is None:
        return {}
    steps = {cell.name: study.tuning_runs(cell)[0].cell.steps for cell in study.cells if study.is_tuned(cell)}
    own: dict[str, Any] = {}
    for cell in study.cells:
        rates = {arm: study.lrs_of(cell, arm) for arm in study.arms_of(cell)}
        if other := {arm: lrs for arm, lrs in rates.items() if lrs != study.tuning.lrs}:
            own[cell.name] = other
    return {key: plain(value) for key, value in {**asdict(study.tuning), "steps": steps, "lrs_of": own}.items()}


def _completed(record: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A nested dictionary with the entries that only another one has.

    >>> _completed({"steps": {"A": 1}}, {"steps": {"A": 2, "B": 3}})
    {'steps': {'A': 1, 'B': 3}}
    """
    shared = {
        key for key in record.keys() & other.keys() if isinstance(record[key], dict) and isinstance(other[key], dict)
    }
    return {**other, **record, **{key: _completed(record[key], other[key]) for key in shared}}


def settings(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Extract from a run's specification the settings that determine its outcome, except the seed, in plain types."""
    of_study = {field.name for field in fields(Cell) if "of_study" in field.metadata}
    cell = {key: value for key, value in plain(spec["cell"]).items() if key not in of_study}
    if "dataset" not in cell:  # a user's loop, which says how many steps it took
        del cell["steps"]
    lr = cell.pop("arm_lr").get(spec["arm"], cell["lr"])  # other arms' rates are irrelevant
    return {"cell": {**cell, "lr": lr}, "term": plain(spec["term"])}


def refuse_changes(where: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise an error that lists every setting that differs from those of existing results, if any does."""
    if changed := differences(old, new):
        raise UserError(f"{where} has other settings ({'; '.join(changed)}): go back to those, or give another --out")


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the settings that differ between two nested dictionaries; unset is the same as None.

    >>> differences({"cell": {"lr": 0.1, "steps": 9}}, {"cell": {"lr": 0.2, "steps": 9}})
    ['cell.lr: 0.1 → 0.2']
    """
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'unset')} → {after.get(key, 'unset')}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)  # what was not yet a setting then is None now
    ]


def plain(value: Any) -> Any:
    """Convert a value to the form it has after a round trip through JSON."""
    return json.loads(json.dumps(value))


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _versions() -> dict[str, str]:
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), "mireg": __version__, **packages}


def _commit() -> str | None:
    """The current commit of the source, marked if files have changed; None outside a repository."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()


def read_tuning(folder: Path) -> Choices:
    """Read the choices made so far; empty without tuning."""
    found = read_json(folder / TUNING)
    return found if isinstance(found, dict) else {}


def write_tuning(folder: Path, cell: str, arms: Mapping[str, dict[str, Any]]) -> None:
    """Add the choices for a cell's arms to those of the study."""
    record = read_tuning(folder)
    record[cell] = {**record.get(cell, {}), **arms}
    write_json(folder / TUNING, record)
