"""Compare a custom training loop with and without the term, over paired seeds."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mireg.ablation import report
from mireg.ablation.arms import ARMS, BASELINE, arm
from mireg.ablation.errors import UserError, check
from mireg.ablation.events import EventHandler
from mireg.ablation.execution.local import Failures, run_here, run_in_workers
from mireg.ablation.execution.progress import display
from mireg.ablation.storage.files import DamagedError, read_json, read_result, write_json, write_result
from mireg.ablation.storage.lock import Lock
from mireg.ablation.storage.provenance import RECORD, RUNS, invocation, plain, refuse_changes
from mireg.ablation.storage.random_state import seed_everything
from mireg.ablation.study.metric import MODES, Metric
from mireg.ablation.training.custom_loop import Broke, Run
from mireg.ablation.training.denormals import flushed_denormals
from mireg.ablation.training.group import Group

Train = Callable[[Run], object]
"""A custom training loop; its return value is ignored."""


def compare(
    train: Train,
    arms: Sequence[str] = (BASELINE, "mi"),
    seeds: int = 6,
    metric: str = "accuracy",
    mode: str = "max",
    target: float | None = None,
    out: str | Path | None = None,
    workers: int = 1,
) -> dict[str, Any]:
    """Run a training loop with every arm and seed, and report the effect of the term.

    The loop is a function of a :class:`mireg.ablation.Run`. Before each call every random number generator is seeded,
    so that the arms of a seed start from the same weights and see the same batches. Seconds are counted from the start
    of the call, excluding the time spent in ``run.log``. Repeating the call keeps finished runs.

    Args:
        train: the loop. With more than one worker, other processes import it by name.
        arms: ``"none"`` and arms that reward MI, see ``mireg --list``.
        seeds: number of seeds; with fewer than 6 the exact paired test cannot fall below 0.05.
        metric: the name of a number that ``train`` logs.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is better.
        target: value of the metric; steps and seconds to reach it are compared. None compares only the final values.
        out: folder for the results, by default ``out/`` and the function's name.
        workers: number of processes.

    Returns:
        The summary, as in ``summary.json``; ``report.html`` and TensorBoard curves are in the same folder.

    Raises:
        UserError: on invalid arguments, or if the folder holds other results.
        RuntimeError: if a run raised an error; finished runs are kept.

    >>> def train(run):
    ...     model = run.wrap(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))).to(run.device)
    ...     optimizer = torch.optim.Adam(model.parameters())
    ...     for step in range(1, 101):
    ...         x, y = batch()
    ...         loss = cross_entropy(model(x), y) + run.mi_loss(y)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         if step % 10 == 0:
    ...             run.log(step, accuracy=evaluate(model))
    >>> compare(train, target=0.9)  # doctest: +SKIP
    """
    _check(train, arms, seeds, workers)
    Metric(metric, mode)
    if MODES.get(metric, mode) != mode:
        raise UserError(f"mode={mode!r}: {metric} has mode {MODES[metric]!r}; give it, or another name to the metric")
    name = train.__name__
    folder = Path("out") / name if out is None else Path(out)
    jobs = [LoopSpec(name, arm, seed, metric, mode, target) for seed in range(seeds) for arm in arms]
    threads = max(1, torch.get_num_threads() // workers) if workers > 1 else None
    work = Loops(train, folder, torch.device("cuda" if torch.cuda.is_available() else "cpu"), threads)
    with Lock(folder / "lock"), display("auto") as tell:
        _record(folder, jobs, str(work.device))
        missing = [job for job in jobs if not work.is_finished(job)]
        tell(
            {
                "event": "study",
                "runs": len(jobs),
                "finished": len(jobs) - len(missing),
                "missing": [j.path for j in missing],
            }
        )
        failures = _execute(missing, work, workers, tell) if missing else {}
    if failures:
        text = "; ".join(f"{path}: {failure}" for path, failure in failures.items())
        raise RuntimeError(f"{text}; finished runs are kept, and the same call continues")
    summary = report.write(folder)
    console = Console(stderr=True)
    report.print_table(summary, console)
    report.print_places(folder, console)
    return summary


@dataclass(frozen=True)
class LoopSpec:
    """One run of a custom loop.

    Attributes:
        study: name of the loop.
        arm: name of the arm.
        seed: seed of all random number generators.
        metric: name of the metric.
        mode: ``"max"`` or ``"min"``.
        target: target value of the metric.
    """

    study: str
    arm: str
    seed: int
    metric: str
    mode: str
    target: float | None

    @property
    def path(self) -> str:
        """The run's name in TensorBoard and in messages."""
        return f"{self.study}/{self.arm}/seed-{self.seed}"

    @property
    def measured(self) -> Metric:
        """The metric and its direction."""
        return Metric(self.metric, self.mode)

    @property
    def cell(self) -> dict[str, Any]:
        """The settings that determine the outcome, apart from arm and seed."""
        return {"name": self.study, "metric": self.metric, "mode": self.mode, "target": self.target}


@dataclass(frozen=True)
class Loops:
    """The settings shared by all runs of a comparison; sent to other processes.

    Attributes:
        train: the user's loop.
        out: the study's folder.
        device: the device to train on.
        threads: CPU threads per run; None leaves the number unchanged.
    """

    train: Train
    out: Path
    device: torch.device
    threads: int | None

    def folder(self, spec: LoopSpec) -> Path:
        """The folder with a run's files."""
        return self.out / RUNS / spec.path

    def is_finished(self, spec: LoopSpec) -> bool:
        """Whether a run has a complete result; a run with a damaged result is repeated."""
        try:
            return read_result(self.folder(spec) / "result.json") is not None
        except DamagedError:
            return False

    def perform(self, spec: LoopSpec, group: Group, tell: EventHandler, stop: Callable[[], bool]) -> None:
        """Call the user's loop once, and write ``result.json``.

        Raises:
            Stopped: if ``stop`` returned True.
            UserError: if the loop never logged the metric.
            OSError: if a file cannot be written.
        """
        if self.threads is not None:
            torch.set_num_threads(self.threads)
        folder = self.folder(spec)
        for old in folder.glob("events.*"):  # from an unfinished attempt
            old.unlink()
        tell({"event": "start", "run": spec.path, "step": 0, "steps": None})
        failure = None
        seed_everything(spec.seed)
        run = Run(spec.arm, spec.seed, group.device, spec.measured, spec.target, folder, tell, stop)
        with flushed_denormals(), run:
            try:
                self.train(run)
            except Broke as broke:
                failure = str(broke)
        curve = run.curve
        if not curve:
            raise UserError(
                f"{spec.path}: " + (failure or f"{self.train.__name__} never called run.log(step, {spec.metric}=...)")
            )
        metric = spec.measured
        write_result(
            folder / "result.json",
            {
                "cell": spec.study,
                "arm": spec.arm,
                "seed": spec.seed,
                "lr": None,
                "device": str(group.device),
                "failure": failure,
                "verdict": run.verdict,
                "seconds": curve[-1]["seconds"],
                "final_split": "validation",
                metric.final: curve[-1][metric.validation],
                "curve": curve,
                "spec": {
                    "cell": {**spec.cell, "steps": curve[-1]["step"]},
                    "arm": spec.arm,
                    "seed": spec.seed,
                    "term": {},
                },
            },
        )
        tell({"event": "finish", "run": spec.path, "failure": failure})


def _check(train: Train, arms: Sequence[str], seeds: int, workers: int) -> None:
    check("seeds", seeds, seeds >= 1, "give at least 1")
    check("workers", workers, workers >= 1, "give at least 1")
    check("arms", arms, len(arms) > 0 and len(set(arms)) == len(arms), "name each once")
    for name in arms:
        if name != BASELINE and arm(name).estimator is None:
            known = ", ".join(key for key, found in ARMS.items() if key == BASELINE or found.estimator)
            raise UserError(f"arm {name!r} does not apply to a loop of one's own: choose from {known}")
    if workers == 1:
        return
    if multiprocessing.parent_process() is not None:
        raise RuntimeError(
            "compare() was called while a worker imported the script: put it under if __name__ == '__main__'"
        )
    interactive = train.__module__ == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    try:
        pickle.dumps(train)
    except (pickle.PicklingError, AttributeError, TypeError):
        interactive = True
    if interactive:
        raise UserError(
            f"workers={workers}: other processes cannot import {train.__name__!r}; define it at the top level of a "
            "module, or give workers=1"
        )


def _record(folder: Path, jobs: Sequence[LoopSpec], device: str) -> None:
    """Record the comparison; a repeated call may add arms and seeds.

    Raises:
        UserError: if the folder holds another comparison.
    """
    old = read_json(folder / RECORD) or {"arms": [], "seeds": [], "invocations": []}
    settings = jobs[0].cell
    if "loop" in old or old["invocations"]:
        refuse_changes(f"the comparison in {folder}", old.get("loop", {}), plain(settings))
    record = {
        "study": jobs[0].study,
        "loop": settings,
        "arms": list(dict.fromkeys([*old["arms"], *(job.arm for job in jobs)])),
        "seeds": sorted({*old["seeds"], *(job.seed for job in jobs)}),
        "invocations": [*old["invocations"], invocation(device)],
    }
    write_json(folder / RECORD, record)


def _execute(jobs: Sequence[LoopSpec], work: Loops, workers: int, tell: EventHandler) -> Failures:
    def never() -> bool:
        return False

    if workers == 1:
        return run_here(jobs, work, Group(work.device), tell, never)
    return run_in_workers(jobs, work, workers, tell, never)
