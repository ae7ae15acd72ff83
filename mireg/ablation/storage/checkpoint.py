"""Checkpoints of one run: the newest and the one before it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from mireg.ablation.storage.files import DamagedError, read_sealed, write_sealed

NEWEST, PREVIOUS = "checkpoint.pt", "checkpoint.previous.pt"


class Checkpoints:
    """The checkpoints in a run's folder; the previous one is kept until the next is complete.

    Args:
        folder: folder of the run.
        note: called with a message about each unusable file.
    """

    def __init__(self, folder: Path, note: Callable[[str], None]) -> None:
        self._newest = folder / NEWEST
        self._previous = folder / PREVIOUS
        self._note = note
        for leftover in folder.glob("*.tmp"):  # from a process killed while writing
            leftover.unlink()

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint of tensors and plain values."""
        fresh = self._newest.with_name("checkpoint.next.pt")
        write_sealed(fresh, state)
        if self._newest.exists():
            self._newest.replace(self._previous)
        fresh.replace(self._newest)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """Load the newest intact checkpoint; None if there is none."""
        for path in (self._newest, self._previous):
            try:
                return dict(read_sealed(path, device))
            except FileNotFoundError:
                continue
            except DamagedError as damage:
                self._note(f"{damage}: going back to an earlier state")
        return None

    @property
    def exist(self) -> bool:
        """Whether there is one to load."""
        return self._newest.exists() or self._previous.exists()

    def clear(self) -> None:
        """Remove the checkpoints of a finished run."""
        for path in (self._newest, self._previous):
            path.unlink(missing_ok=True)
