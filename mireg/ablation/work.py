"""One run of a study, as every executor performs it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from mireg.ablation.config import RunSpec
from mireg.ablation.data import load
from mireg.ablation.group import Group
from mireg.ablation.lock import Lock
from mireg.ablation.progress import Tell
from mireg.ablation.run import Build, train

RUNS = "runs"
"""Folder of the runs inside a study's, and the log directory for TensorBoard."""

RETRIES = 2
"""How often a run is tried again when the process or machine that trained it is lost."""

PATIENCE = 60.0
"""Seconds in which a process that lost its parent must have noticed and let go of its run."""


@dataclass(frozen=True)
class Setup:
    """What all runs of a study share; it travels to other processes.

    Attributes:
        out: the study's folder.
        build: makes the network of a cell; importable by name, since workers import it.
        data_dir: see :func:`mireg.ablation.data.load`.
        device: to train on: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads of each run.
        checkpoint_seconds: see :func:`mireg.ablation.run.train`.
    """

    out: Path
    build: Build
    data_dir: Path
    device: torch.device
    threads: int
    checkpoint_seconds: float

    def folder(self, spec: RunSpec) -> Path:
        """Where a run's files lie."""
        return self.out / spec.path if spec.tuning else self.out / RUNS / spec.path

    def perform(self, spec: RunSpec, group: Group, tell: Tell, stop: Callable[[], bool]) -> None:
        """See :func:`perform`."""
        perform(spec, self, group, tell, stop)


def perform(spec: RunSpec, setup: Setup, group: Group, tell: Tell, stop: Callable[[], bool]) -> None:
    """Train one run to its end, with no other process at the same one.

    Raises:
        Stopped: if ``stop`` said so; the run's state is saved.
        UserError: if data are missing or damaged.
        OSError: if a file cannot be written.
    """
    torch.set_num_threads(setup.threads)
    dataset = load(spec.cell.dataset, setup.data_dir, spec.cell.context)
    folder = setup.folder(spec)
    with Lock(folder / "lock", PATIENCE) if group.writes else nullcontext(), flushed_denormals():
        train(
            spec,
            dataset,
            setup.build,
            folder,
            group=group,
            checkpoint_seconds=setup.checkpoint_seconds,
            tell=tell,
            stop=stop,
        )


@contextmanager
def flushed_denormals() -> Iterator[None]:
    """Numbers too small for full precision count as 0 in this thread.

    A dead network's gradients are such numbers, and a CPU takes five times as long over them.
    """
    smallest = torch.tensor(torch.finfo(torch.float32).tiny)
    before = (smallest / 2).item() == 0
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        torch.set_flush_denormal(before)
