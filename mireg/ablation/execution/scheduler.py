"""Schedule the runs of a study: skip finished runs, pass the others to an executor."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mireg.ablation.arms import ARMS
from mireg.ablation.data import Dataset, load
from mireg.ablation.errors import UserError
from mireg.ablation.events import EventHandler
from mireg.ablation.execution.job import Setup
from mireg.ablation.execution.local import Failures
from mireg.ablation.storage.files import DamagedError, read_result
from mireg.ablation.storage.lock import Lock
from mireg.ablation.storage.provenance import read_tuning, record_study, refuse_changes, settings, write_tuning
from mireg.ablation.study.config import Cell, RunSpec, Study
from mireg.ablation.study.tuning import choose
from mireg.ablation.training.group import Group, check_divides
from mireg.ablation.training.loop import evaluate
from mireg.ablation.training.recipe import hidden_matrices
from mireg.ablation.training.tasks import METRICS, check_outputs, score, task_loss
from mireg.ablation.user_code import blame

SAMPLES = 8
"""Number of samples for checking a network before any training."""

SAMPLES_FOR_TARGET = 500
"""Number of samples for checking that the untrained network has not reached the target."""

Execute = Callable[[Sequence[RunSpec]], Failures]
"""Trains runs, and returns why any of them have no result."""


def run_study(
    study: Study, setup: Setup, execute: Execute, *, group: Group, tell: EventHandler
) -> list[dict[str, Any]]:
    """Perform the missing runs of a study and return the results of all its runs.

    Args:
        study: the study.
        setup: folder and settings; finished runs in the folder are kept.
        execute: see :mod:`mireg.ablation.execution.local` and :mod:`mireg.ablation.execution.ray`.
        group: the group of this process; one process checks and locks the folder for all.
        tell: receives the events.

    Returns:
        The result of each run; for a run without one, its ``cell``, ``arm``, ``seed`` and ``failure``. Empty in a
        process that does not write.

    Raises:
        Stopped: see the executor.
        UserError: on invalid model options, missing data, or a folder that is in use or has other settings. All of
            these are checked before the first step.
        OSError: if a file cannot be written.
    """
    _check_cells(study, setup, group)
    with Lock(setup.out / "lock") if group.writes else nullcontext() as lock:
        if lock is not None:
            if lock.left_by:
                tell(_note(f"took over from {lock.left_by}, which ended without cleaning up"))
            for text in record_study(study, setup.out, str(setup.device)):
                tell(_note(text))
        work = _tuned if study.tuning else _untuned
        return work(study, setup, execute, group, tell)


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


def _check_cells(study: Study, setup: Setup, group: Group) -> None:
    """Check every network of the study once; each data set is loaded once and released before training."""
    datasets = {
        key: load(key[0], setup.data_dir, key[1]) for key in {(c.dataset, c.context): None for c in study.cells}
    }
    checked: list[tuple[Cell, object]] = []
    for spec in study.runs():
        network = (spec.cell, ARMS[spec.arm].initialise)
        if network not in checked:
            _check_builds(spec, setup, datasets[spec.cell.dataset, spec.cell.context], group)
            checked.append(network)


def _check_builds(spec: RunSpec, setup: Setup, dataset: Dataset, group: Group) -> None:
    """Build the network of a run and try it on a few samples, so that an invalid request fails before training."""
    cell = spec.cell
    check_divides(min(cell.batch_size, len(dataset.train)), group.size)
    if cell.metric not in METRICS[dataset.task]:
        choices = ", ".join(METRICS[dataset.task])
        raise UserError(f"{cell.name}: metric={cell.metric!r} does not apply to {dataset.task}: choose from {choices}")
    if cell.diagnostics and not dataset.train.batch(slice(0, 1))[0].is_floating_point():
        raise UserError(f"{cell.name}: diagnostics need inputs that are real numbers, and {cell.dataset} has tokens")
    if cell.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise UserError(f"{cell.name}: optimizer='muon' needs PyTorch 2.9 or newer, and this is {torch.__version__}")
    if cell.augment != "none" and len(dataset.input_shape) != 3:
        raise UserError(f"{cell.name}: augment={cell.augment!r} needs images, and a sample is {dataset.input_shape}")
    few = replace(dataset, validation=dataset.validation.first(SAMPLES))
    inputs = few.validation.batch(slice(0, SAMPLES))[0]
    with torch.random.fork_rng(devices=[]):
        try:
            network = setup.build(cell, dataset)
            if initialise := ARMS[spec.arm].initialise:
                initialise(network, inputs)
            if cell.optimizer == "muon" and not hidden_matrices(network):
                raise UserError(
                    f"{cell.name}, arm {spec.arm}: muon does not apply, {cell.model!r} has no matrix between its first "
                    "and its last layer, and convolutions and recurrent weights are not muon's; leave it out"
                )
            with torch.no_grad():
                check_outputs(dataset, network.eval()(inputs), len(inputs))
            value = evaluate(network, few, spec)[cell.measured.validation]
            if not math.isfinite(value):
                raise ValueError(f"the {cell.metric} of the untrained network is {value}")
            _check_target(network, dataset, cell)
            _check_training(network, dataset, cell)
        except UserError:
            raise
        except (ValueError, RuntimeError, MemoryError, OverflowError) as error:  # our own checks, or torch's on sizes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, RuntimeError):
                reason += f" (inputs are {str(inputs.dtype).removeprefix('torch.')} {tuple(inputs.shape)})"
            raise UserError(f"{cell.name}, arm {spec.arm}: {reason}") from error
        except (Exception, SystemExit) as error:
            raise UserError(f"{cell.name}, arm {spec.arm}: {blame(error)}") from error


def _check_target(network: nn.Module, dataset: Dataset, cell: Cell) -> None:
    """Reject a target that the untrained network has already reached."""
    if cell.target is None:
        return
    metric = cell.measured
    value = score(network, dataset.validation.first(SAMPLES_FOR_TARGET), dataset.task, metric.name)
    if metric.reached(value, cell.target):
        better = "higher" if metric.mode == "max" else "lower"
        raise UserError(
            f"{cell.name}: target={cell.target!r}: the untrained network is at {metric.name} {value:.4g} already; "
            f"give a {better} one"
        )


def _check_training(network: nn.Module, dataset: Dataset, cell: Cell) -> None:
    """Do a forward and a backward pass in training mode, where some networks return more than in evaluation."""
    inputs, targets = dataset.train.batch(slice(0, SAMPLES))
    outputs = network.train()(inputs)
    check_outputs(dataset, outputs, len(inputs))
    loss = task_loss(dataset.task, outputs, targets)
    if not loss.requires_grad:
        raise ValueError("the network has nothing to train: none of its parameters takes a gradient")
    loss.backward()


def _started(runs: Sequence[RunSpec], missing: Sequence[RunSpec]) -> dict[str, Any]:
    finished = len(runs) - len(missing)
    return {"event": "study", "runs": len(runs), "finished": finished, "missing": [spec.path for spec in missing]}


def _note(text: str) -> dict[str, Any]:
    return {"event": "note", "text": text}
