"""Schedule the runs of a study: skip finished runs, pass the others to an executor."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mireg.ablation.arms import BASELINE
from mireg.ablation.events import EventHandler
from mireg.ablation.execution.job import Execute, Failures, Setup
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

T = TypeVar("T")


def run_study(
    study: Study,
    setup: Setup,
    execute: Execute,
    *,
    group: Group,
    tell: EventHandler,
    fresh: bool = False,
    keep: bool = False,
) -> list[dict[str, Any]]:
    """Perform the missing runs of a study and return the results of all its runs.

    Args:
        study: the study.
        setup: folder and settings; finished runs in the folder are kept.
        execute: see :mod:`mireg.ablation.execution.local` and :mod:`mireg.ablation.execution.ray`.
        group: the group of this process; one process checks and locks the folder for all.
        tell: receives the events.
        fresh: remove the folder's results first.
        keep: keep results of code that has changed since, instead of refusing the call.

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
            if fresh:
                remove_results(setup.out)
            for text in record_study(study, setup.out, code, keep=keep):
                tell(_note(text))

        def recorded(runs: Sequence[RunSpec]) -> Failures:
            if group.writes:
                record_invocation(setup.out, str(setup.device), len(runs))
            return execute(runs)

        results = _perform(study, _Work(setup, recorded, group, tell))
        for cell, arms in unpaired(results).items():
            for arm, what in arms.items():
                tell(_note(f"{cell}: arm {arm!r} and {BASELINE!r} of a seed do not have equal {' and '.join(what)}"))
        return results


@dataclass(frozen=True)
class _Work:
    """What performs the runs of a study."""

    setup: Setup
    execute: Execute
    group: Group
    tell: EventHandler

    def results(self, runs: Sequence[RunSpec]) -> list[dict[str, Any]]:
        """The results of runs, of which the missing ones are performed; empty in a process that does not write."""
        left = [spec for spec in runs if self.group.writes and _finished(spec, self.setup, self.tell) is None]
        missing = self.shared(left)
        failures = self.execute(missing) if missing else {}
        return [self._result(spec, failures) for spec in runs] if self.group.writes else []

    def _result(self, spec: RunSpec, failures: Failures) -> dict[str, Any]:
        if spec.path not in failures:
            return read_result(self.setup.folder(spec) / "result.json") or {}
        name = f"{spec.path}: " if spec.tuning else ""
        failure = f"{name}{failures[spec.path]}"
        return {"cell": spec.cell.name, "arm": spec.arm, "seed": spec.seed, "failure": failure}

    def shared(self, value: T) -> T:
        """In every process, the value of the one that writes."""
        found = self.group.first(value if self.group.writes else None)
        assert found is not None
        return found


def _perform(study: Study, work: _Work) -> list[dict[str, Any]]:
    """Perform the missing runs; with tuning, cell by cell: the tuning runs, the choice of rates, the runs with them.

    A choice on record stands. If a tuning run fails, no rates are chosen, and the cell is left for the next call.
    """
    chosen = work.shared(read_tuning(work.setup.out))
    tuning = {
        cell.name: [spec for spec in study.tuning_runs(cell) if spec.arm not in chosen.get(cell.name, {})]
        for cell in (study.cells if study.tuning else ())
    }
    every = [*study.runs(), *itertools.chain(*tuning.values())]
    finished = sum((work.setup.folder(spec) / "result.json").exists() for spec in every)
    work.tell({"event": "study", "runs": len(every), "finished": finished})
    if not study.tuning:
        return work.results(study.runs())
    results = []
    for cell in study.cells:
        trials = tuning[cell.name]
        tried = work.results(trials)
        if lost := work.shared([result for result in tried if "curve" not in result]):
            results += lost if work.group.writes else []
            continue
        choice = work.shared(choose(zip(trials, tried, strict=False)))  # none where nothing is written
        if choice and work.group.writes:
            write_tuning(work.setup.out, cell.name, choice)
        choice = chosen.get(cell.name, {}) | choice
        rates = {arm: choice[arm]["lr"] for arm in study.arms_of(cell)} if study.is_tuned(cell) else {}
        results += work.results(study.runs([replace(cell, arm_lr=rates)]))
    return results


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


def _note(text: str) -> dict[str, Any]:
    return {"event": "note", "text": text}
