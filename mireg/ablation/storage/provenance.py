"""Provenance of the results in a study's folder."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mireg.ablation.errors import UserError
from mireg.ablation.storage.changes import completed, differences, plain, refuse_changes, settings
from mireg.ablation.storage.files import read_json, write_json
from mireg.ablation.storage.invocation import versions
from mireg.ablation.storage.rates import TUNING
from mireg.ablation.study.config import RunSpec

RECORD = "study.json"

RUNS = "runs"
"""Name of the folder with a study's runs, the log directory for TensorBoard."""


def record_study(
    name: str,
    runs: Sequence[RunSpec],
    tuning: dict[str, Any],
    out: Path,
    code: Mapping[str, str],
    *,
    keep: bool = False,
) -> list[str]:
    """Record the study, with all settings resolved, in its folder; a later call may add cells, arms and seeds.

    Args:
        name: name of the study.
        runs: its runs.
        tuning: how their learning rates are chosen (:meth:`mireg.ablation.study.config.Study.tuning_settings`).
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
        record = {"study": name, "arms": [], "seeds": [], "configuration": {}, "invocations": []}
    if record["study"] != name:
        raise UserError(f"{out} holds the study {record['study']!r}, not {name!r}: give another --out")
    configuration = record["configuration"]
    tuning, before, tuned = plain(tuning), record.get("tuning", {}), set(tuning.get("steps", ()))
    if configuration:
        if before and tuning:  # cells and arms may be added
            before, tuning = completed(before, tuning), completed(tuning, before)
        refuse_changes(f"the tuning in {out}", before, tuning)
    for spec in runs:
        arms = configuration.setdefault(spec.cell.name, {})
        chosen = settings(spec.as_dict())
        if spec.cell.name in tuned:
            del chosen["cell"]["lr"]  # not chosen yet
        refuse_changes(f"{spec.cell.name}/{spec.arm} in {out}", arms.setdefault(spec.arm, chosen), chosen)
    known = record.get("code", {})
    has_results = any(True for file in ("result.json", "checkpoint.pt") for _ in out.rglob(file))
    changed = [part for part in code if has_results and known.get(part, code[part]) != code[part]]
    if changed and not keep:
        raise UserError(
            f"{out} holds results of other code ({', '.join(changed)} changed): begin again with --fresh "
            "(compare: fresh=True), give another --out (out=), or keep them with --keep (keep=True)"
        )
    now = versions()
    for earlier in record["invocations"][-1:]:
        if moved := differences(earlier["versions"], now):
            notes.append(f"packages changed since the last time ({'; '.join(moved)}): results may differ in the end")
    record |= {
        "arms": list(dict.fromkeys([*record["arms"], *(spec.arm for spec in runs)])),
        "seeds": sorted({*record["seeds"], *(spec.seed for spec in runs)}),
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
