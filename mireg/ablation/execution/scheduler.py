"""Schedule the runs of a study: skip finished runs, pass the others to an executor."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, TypeVar

from mireg.ablation.arms import BASELINE
from mireg.ablation.events import EventHandler, note
from mireg.ablation.execution.job import Execute, Setup
from mireg.ablation.execution.preflight import preflight
from mireg.ablation.fingerprint import fingerprint
from mireg.ablation.storage.changes import refuse_changes, settings
from mireg.ablation.storage.files import DamagedError, read_result
from mireg.ablation.storage.invocation import record_invocation
from mireg.ablation.storage.lock import locked
from mireg.ablation.storage.provenance import RECORD, record_study, remove_results
from mireg.ablation.storage.rates import read_tuning, write_tuning
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
        The result of each run; for a run without one, its ``cell``, ``arm``, ``seed``, ``failure`` and ``error``, None
        unless it was raised in this process. Empty in a process that does not write.

    Raises:
        Stopped: see the executor.
        UserError: on invalid model options, missing data, or a folder that is in use or has other settings. All of
            these are checked before the first step.
        OSError: if a file cannot be written.
    """
    runs, tuning = study.runs(), study.tuning_settings()
    trials = {cell.name: study.tuning_runs(cell) for cell in study.cells}
    if isinstance(setup.train, Trainer):
        preflight(runs, setup.train, group)
    named = [name for cell in study.cells for name in (cell.model, cell.dataset, cell.task or "")]
    code = fingerprint(None if isinstance(setup.train, Trainer) else setup.train, [*named, *study.all_arms])
    with locked(setup.out) if group.writes else nullcontext():
        if group.writes:
            if fresh:
                remove_results(setup.out)
            for text in record_study(study.name, runs, tuning, setup.out, code, keep=keep):
                tell(note(text))
        results = _Work(setup, execute, group, tell).perform(runs, trials)
        for cell, arms in unpaired(results).items():
            for arm, what in arms.items():
                tell(note(f"{cell}: arm {arm!r} and {BASELINE!r} of a seed do not have equal {' and '.join(what)}"))
        return results


@dataclass(frozen=True)
class _Work:
    """What performs the runs of a study, in every process of the group; only one of them reads and writes files."""

    setup: Setup
    execute: Execute
    group: Group
    tell: EventHandler

    def perform(self, runs: list[RunSpec], trials: dict[str, list[RunSpec]]) -> list[dict[str, Any]]:
        """Perform the missing runs; with tuning runs, cell by cell: these, the choice of rates, the runs with them.

        A choice on record stands. If a tuning run fails, no rates are chosen, and the cell is left for the next call.
        """
        out, writes = self.setup.out, self.group.writes
        chosen = self._shared(read_tuning(out))
        wanted = {name: [spec for spec in of if spec.arm not in chosen.get(name, {})] for name, of in trials.items()}
        every = [*runs, *itertools.chain(*wanted.values())]
        finished = sum((self.setup.folder(spec) / "result.json").exists() for spec in every)
        self.tell({"event": "study", "runs": len(every), "finished": finished})
        if not any(trials.values()):
            return self._results(runs)
        results = []
        for name, specs in wanted.items():
            tried = self._results(specs)
            if lost := self._shared([result for result in tried if "curve" not in result]):
                results += lost if writes else []
                continue
            choice = self._shared(choose(zip(specs, tried, strict=False)))  # none where nothing is written
            if choice and writes:
                write_tuning(out, name, choice)
            choice = chosen.get(name, {}) | choice
            rates = {spec.arm: choice[spec.arm]["lr"] for spec in trials[name]}
            of_cell = [spec for spec in runs if spec.cell.name == name]
            results += self._results([spec.at(rates) for spec in of_cell] if rates else of_cell)
        return results

    def _results(self, runs: Sequence[RunSpec]) -> list[dict[str, Any]]:
        """The results of runs, of which the missing ones are performed; empty in a process that does not write."""
        writes = self.group.writes
        found = {spec.path: self._finished(spec) for spec in runs if writes}
        missing = self._shared([spec for spec in runs if found.get(spec.path) is None])
        if missing and writes:
            record_invocation(self.setup.out / RECORD, str(self.setup.device), len(missing))
        failures = self.execute(missing) if missing else {}
        for spec in missing if writes else ():
            if spec.path in failures:
                text, error = failures[spec.path]
                failure = f"{spec.path}: {text}" if spec.tuning else text
                lost = {"cell": spec.cell.name, "arm": spec.arm, "seed": spec.seed, "failure": failure, "error": error}
                found[spec.path] = lost
            else:
                found[spec.path] = read_result(self.setup.folder(spec) / "result.json")
        return [result or {} for result in found.values()]

    def _finished(self, spec: RunSpec) -> dict[str, Any] | None:
        """The result of a run, if it is there, undamaged; one with other settings is refused."""
        folder = self.setup.folder(spec)
        try:
            result = read_result(folder / "result.json")
            if result is None:
                return None
            weights, digest = folder / "weights.pt", result.get("weights_sha256")
            if digest and weights.exists() and hashlib.sha256(weights.read_bytes()).hexdigest() != digest:
                raise DamagedError(f"{weights} is damaged")
        except DamagedError as damage:
            self.tell(note(f"{damage}: {spec.path} is run again"))
            return None
        old, new = (settings(known) for known in (result["spec"], spec.as_dict()))
        refuse_changes(f"{spec.path} in {self.setup.out}", old, new)
        return result

    def _shared(self, value: T) -> T:
        """In every process, the value of the one that writes."""
        found = self.group.first(value if self.group.writes else None)
        assert found is not None
        return found
