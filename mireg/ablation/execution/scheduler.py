"""Schedule the runs of a study: skip finished runs, pass the others to an executor."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from mireg.ablation.arms import BASELINE
from mireg.ablation.events import EventHandler
from mireg.ablation.execution.job import Failures, Setup
from mireg.ablation.execution.preflight import preflight
from mireg.ablation.fingerprint import fingerprint
from mireg.ablation.storage.files import DamagedError, read_result
from mireg.ablation.storage.lock import locked
from mireg.ablation.storage.provenance import (
    read_tuning,
    record_invocation,
    record_study,
    refuse_changes,
    remove_results,
    settings,
    write_tuning,
)
from mireg.ablation.study.config import RunSpec, Study
from mireg.ablation.study.pairing import unpaired
from mireg.ablation.study.tuning import choose
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import Trainer

Execute = Callable[[Sequence[RunSpec]], Failures]
"""Trains runs, and returns why any of them have no result."""


def run_study(
    study: Study,
    setup: Setup,
    execute: Execute,
    *,
    group: Group,
    tell: EventHandler,
    changed_code: Literal["refuse", "keep", "fresh"] = "refuse",
) -> list[dict[str, Any]]:
    """Perform the missing runs of a study and return the results of all its runs.

    Args:
        study: the study.
        setup: folder and settings; finished runs in the folder are kept.
        execute: see :mod:`mireg.ablation.execution.local` and :mod:`mireg.ablation.execution.ray`.
        group: the group of this process; one process checks and locks the folder for all.
        tell: receives the events.
        changed_code: what becomes of results of code that has changed since: refuse the call, or keep them; or remove
            the folder's results first, whether or not code has changed.

    Returns:
        The result of each run; for a run without one, its ``cell``, ``arm``, ``seed`` and ``failure``. Empty in a
        process that does not write.

    Raises:
        Stopped: see the executor.
        UserError: on invalid model options, missing data, or a folder that is in use or has other settings. All of
            these are checked before the first step.
        OSError: if a file cannot be written.
    """
    built_in = isinstance(setup.train, Trainer)
    if isinstance(setup.train, Trainer):
        preflight(study, setup.train, group)
    named = [name for cell in study.cells for name in (cell.model, cell.dataset, cell.task or "")]
    code = fingerprint(None if built_in else setup.train, [*named, *study.all_arms])
    with locked(setup.out) if group.writes else nullcontext():
        if group.writes:
            if changed_code == "fresh":
                remove_results(setup.out)
            for text in record_study(study, setup.out, code, keep=changed_code == "keep"):
                tell(_note(text))

        def recorded(runs: Sequence[RunSpec]) -> Failures:
            if group.writes:
                record_invocation(setup.out, str(setup.device), len(runs))
            return execute(runs)

        work = _tuned if study.tuning else _untuned
        results = work(study, setup, recorded, group, tell)
        for cell, arms in unpaired(results).items():
            for arm, what in arms.items():
                tell(_note(f"{cell}: arm {arm!r} and {BASELINE!r} of a seed do not have equal {' and '.join(what)}"))
        return results


def _untuned(study: Study, setup: Setup, execute: Execute, group: Group, tell: EventHandler) -> list[dict[str, Any]]:
    runs = study.runs()
    missing = _missing(runs, setup, group, tell)
    tell(_started(runs, missing))
    failures = execute(missing) if missing else {}
    return [_outcome(spec, setup, failures) for spec in runs] if group.writes else []


def _tuned(study: Study, setup: Setup, execute: Execute, group: Group, tell: EventHandler) -> list[dict[str, Any]]:
    """For each cell, perform the tuning runs, choose the learning rates, and perform the runs with them.

    A choice on record stands. If a tuning run fails, no rates are chosen, and the cell is left for the next call.
    """
    chosen = group.first(read_tuning(setup.out) if group.writes else None) or {}
    trials_of = {
        cell.name: [spec for spec in study.tuning_runs(cell) if spec.arm not in chosen.get(cell.name, {})]
        for cell in study.cells
    }
    every = [*study.runs(), *(spec for trials in trials_of.values() for spec in trials)]
    tell(_started(every, [spec for spec in every if not (setup.folder(spec) / "result.json").exists()]))
    outcomes = []
    for cell in study.cells:
        trials = trials_of[cell.name]
        missing = _missing(trials, setup, group, tell)
        failures = execute(missing) if missing else {}
        if lost := group.first(failures if group.writes else None):
            messages = {path: f"{path}: {why}" for path, why in lost.items()}
            outcomes += [_failed(trial, messages) for trial in trials if group.writes and trial.path in lost]
            continue
        choice = None
        if group.writes:
            choice = choose((spec, read_result(setup.folder(spec) / "result.json")) for spec in trials)
            if choice:
                write_tuning(setup.out, cell.name, choice)
        choice = group.first(choice)
        assert choice is not None  # rank 0 always has one
        choice = chosen.get(cell.name, {}) | choice
        runs = study.runs([replace(cell, arm_lr={arm: choice[arm]["lr"] for arm in study.arms_of(cell)})])
        missing = _missing(runs, setup, group, tell)
        failures = execute(missing) if missing else {}
        outcomes += [_outcome(spec, setup, failures) for spec in runs] if group.writes else []
    return outcomes


def _missing(runs: Sequence[RunSpec], setup: Setup, group: Group, tell: EventHandler) -> list[RunSpec]:
    """The runs that have no valid result yet."""
    missing = group.first([spec for spec in runs if _finished(spec, setup, tell) is None] if group.writes else None)
    assert missing is not None  # rank 0 always has a list
    return missing


def _outcome(spec: RunSpec, setup: Setup, failures: Failures) -> dict[str, Any]:
    if spec.path in failures:
        return _failed(spec, failures)
    return read_result(setup.folder(spec) / "result.json") or {}


def _failed(spec: RunSpec, failures: Failures) -> dict[str, Any]:
    return {"cell": spec.cell.name, "arm": spec.arm, "seed": spec.seed, "failure": failures[spec.path]}


def _finished(spec: RunSpec, setup: Setup, tell: EventHandler) -> dict[str, Any] | None:
    """The result of a finished run, or None.

    Raises:
        UserError: if the folder contains this run with other settings.
    """
    folder = setup.folder(spec)
    try:
        result = read_result(folder / "result.json")
        if result is None:
            return None
        _check_weights(folder / "weights.pt", result.get("weights_sha256"))
    except DamagedError as damage:
        tell(_note(f"{damage}: {spec.path} is run again"))
        return None
    refuse_changes(f"{spec.path} in {setup.out}", settings(result["spec"]), settings(spec.as_dict()))
    return result


def _check_weights(path: Path, digest: str | None) -> None:
    if digest is not None and path.exists() and hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise DamagedError(f"{path} is damaged")


def _started(runs: Sequence[RunSpec], missing: Sequence[RunSpec]) -> dict[str, Any]:
    finished = len(runs) - len(missing)
    return {"event": "study", "runs": len(runs), "finished": finished, "missing": [spec.path for spec in missing]}


def _note(text: str) -> dict[str, Any]:
    return {"event": "note", "text": text}
