"""A single run of a study, performed in the same way by every executor."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from mireg.ablation.data import load
from mireg.ablation.events import EventHandler
from mireg.ablation.storage.lock import Lock
from mireg.ablation.storage.provenance import RUNS
from mireg.ablation.study.config import RunSpec
from mireg.ablation.training.denormals import flushed_denormals
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import Build, train

RETRIES = 2
"""Number of retries of a run whose process or machine is lost."""

PATIENCE = 60.0
"""Seconds within which a process that lost its parent must notice and release its run."""


@dataclass(frozen=True)
class Setup:
    """The settings shared by all runs of a study; sent to other processes.

    Attributes:
        out: the study's folder.
        build: builds the network of a cell; importable by name, since workers import it.
        data_dir: see :func:`mireg.ablation.data.load`.
        device: the device to train on: ``"cpu"`` or ``"cuda"``.
        threads: CPU threads per run.
        checkpoint_seconds: see :func:`mireg.ablation.training.loop.train`.
    """

    out: Path
    build: Build
    data_dir: Path
    device: torch.device
    threads: int
    checkpoint_seconds: float

    def folder(self, spec: RunSpec) -> Path:
        """The folder with a run's files."""
        return self.out / spec.path if spec.tuning else self.out / RUNS / spec.path

    def perform(self, spec: RunSpec, group: Group, tell: EventHandler, stop: Callable[[], bool]) -> None:
        """See :func:`perform`."""
        perform(spec, self, group, tell, stop)


def perform(spec: RunSpec, setup: Setup, group: Group, tell: EventHandler, stop: Callable[[], bool]) -> None:
    """Train one run to its end, while no other process works on it.

    Raises:
        Stopped: if ``stop`` returned True; the run's state is saved.
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
