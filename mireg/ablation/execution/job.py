"""A single run of a study, performed in the same way by every executor."""

from __future__ import annotations

import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from mireg.ablation.errors import Stopped, UserError, cannot_write, one_line
from mireg.ablation.events import EventHandler, ShouldStop, note
from mireg.ablation.storage.files import WriteError
from mireg.ablation.storage.lock import locked
from mireg.ablation.storage.provenance import RUNS
from mireg.ablation.study.config import RunSpec
from mireg.ablation.training import run
from mireg.ablation.training.denormals import flushed_denormals
from mireg.ablation.training.group import Group

RETRIES = 2
"""Number of retries of a run whose process or machine is lost."""

PATIENCE = 60.0
"""Seconds within which a process that lost its parent must notice and release its run."""

Failures = dict[str, tuple[str, Exception | None]]
"""Why runs have no result, by path: in one line, and the error itself where it was raised in this process."""

Execute = Callable[[Sequence[RunSpec]], Failures]
"""Trains runs, and returns why any of them have no result."""


@dataclass(frozen=True)
class Setup:
    """The settings shared by all runs of a study; sent to other processes.

    Attributes:
        out: the study's folder.
        train: the training loop: :class:`mireg.ablation.training.loop.Trainer`, or a user's own function of a run.
        device: the device to train on.
        threads: CPU threads per run; None leaves the number unchanged.
        checkpoint_seconds: minimum time between checkpoints of a run; 0 writes one whenever the loop can be saved.
    """

    out: Path
    train: Callable[[run.Run], object]
    device: torch.device
    threads: int | None
    checkpoint_seconds: float

    def folder(self, spec: RunSpec) -> Path:
        """The folder with a run's files."""
        return self.out / spec.path if spec.tuning else self.out / RUNS / spec.path


def perform(spec: RunSpec, setup: Setup, group: Group, tell: EventHandler, stop: ShouldStop) -> None:
    """Train one run to its end, while no other process works on it.

    Raises:
        Stopped: if ``stop`` returned True; the run's state is saved if the loop can be.
        UserError: if data are missing or damaged.
        WriteError: if a file cannot be written.
    """
    if setup.threads is not None:
        torch.set_num_threads(setup.threads)
    folder = setup.folder(spec)
    with flushed_denormals(), locked(folder, PATIENCE) if group.writes else nullcontext():
        begun = run.Run(spec, folder, group, tell=tell, stop=stop, checkpoint_seconds=setup.checkpoint_seconds)
        run.perform(begun, setup.train)


def attempt(spec: RunSpec, setup: Setup, group: Group, tell: EventHandler, stop: ShouldStop) -> tuple[str, Any]:
    """:func:`perform` for another process, which is told how the run ended.

    Returns:
        ``"done"``; ``"refused"`` and a message for the user; or ``"crashed"`` and what :func:`crashed` takes.
    """
    try:
        perform(spec, setup, group, tell, stop)
    except Stopped:
        pass
    except UserError as error:
        return "refused", str(error)
    except BrokenPipeError:  # nobody listens any more
        raise
    except WriteError as error:
        return "refused", cannot_write(error)
    except Exception as error:
        return "crashed", described(error)
    return "done", None


def described(error: Exception) -> tuple[str, str]:
    """The traceback of an error in the code of a run, and its type and message in one line."""
    return traceback.format_exc().rstrip(), one_line("".join(traceback.format_exception_only(error)))


def crashed(spec: RunSpec, error: tuple[str, str], tell: EventHandler) -> str:
    """Report an error in the code of a run, see :func:`described`; its line is the failure."""
    trace, failure = error
    tell(note(trace, spec.path))
    tell({"event": "finish", "run": spec.path, "failure": failure})
    return failure
