"""Two checkpoints, one of which is always whole, and every random-number stream."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mireg.ablation.random_state import random_state, seed_everything, set_random_state
from mireg.ablation.storage.checkpoint import NEWEST, PREVIOUS, Checkpoints
from mireg.ablation.storage.files import read_sealed, write_sealed

CPU = torch.device("cpu")


@pytest.fixture
def notes() -> list[str]:
    return []


@pytest.fixture
def checkpoints(tmp_path: Path, notes: list[str]) -> Checkpoints:
    return Checkpoints(tmp_path, notes.append)


def test_nothing_yet(checkpoints: Checkpoints, notes: list[str]) -> None:
    assert checkpoints.load(CPU) is None
    assert not notes


def test_the_newest_and_the_one_before(checkpoints: Checkpoints, tmp_path: Path) -> None:
    for step in range(3):
        checkpoints.save({"step": step})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([NEWEST, PREVIOUS])
    assert checkpoints.load(CPU) == {"step": 2}
    checkpoints.clear()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("size", [0, 10, 100])
def test_a_damaged_newest_falls_back_and_says_so(
    checkpoints: Checkpoints, notes: list[str], tmp_path: Path, size: int
) -> None:
    checkpoints.save({"step": 1})
    checkpoints.save({"step": 2})
    (tmp_path / NEWEST).write_bytes((tmp_path / NEWEST).read_bytes()[:size])
    assert checkpoints.load(CPU) == {"step": 1}
    assert notes == [f"{tmp_path / NEWEST} is damaged: going back to an earlier state"]
    (tmp_path / PREVIOUS).write_bytes(b"")
    assert checkpoints.load(CPU) is None
    assert len(notes) == 3


def test_killed_between_the_renames(checkpoints: Checkpoints, notes: list[str], tmp_path: Path) -> None:
    checkpoints.save({"step": 1})
    (tmp_path / NEWEST).replace(tmp_path / PREVIOUS)
    write_sealed(tmp_path / "checkpoint.next.pt", {"step": 2})
    assert checkpoints.load(CPU) == {"step": 1}
    checkpoints.save({"step": 3})
    assert checkpoints.load(CPU) == {"step": 3}
    assert read_sealed(tmp_path / PREVIOUS, CPU) == {"step": 1}


def test_half_written_files_are_cleared_away(tmp_path: Path) -> None:
    (tmp_path / "checkpoint.next.pt.123.tmp").write_bytes(b"half")
    Checkpoints(tmp_path, print)
    assert not list(tmp_path.iterdir())


def draw() -> tuple[object, ...]:
    return random.random(), np.random.standard_normal(), torch.randn(3).tolist()


def test_every_stream_goes_on_where_it_was(tmp_path: Path) -> None:
    seed_everything(3)
    first = draw()  # numpy keeps the second of a pair of normal numbers
    write_sealed(tmp_path / "state", random_state(CPU))
    after = draw(), draw()
    set_random_state(read_sealed(tmp_path / "state", CPU), CPU)
    assert (draw(), draw()) == after
    seed_everything(3)
    assert draw() == first
