"""One owner at a time; a dead one leaves no claim."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path

import pytest

from mireg.ablation.errors import UserError
from mireg.ablation.storage.lock import LOCK, locked


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    owner = f"process {os.getpid()} on {platform.node()}"
    with (
        locked(tmp_path),
        pytest.raises(UserError, match=f"{tmp_path} is in use by {owner}.*another --out"),
        locked(tmp_path),
    ):
        pass
    with locked(tmp_path):
        pass


def test_a_lock_without_an_owner_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / LOCK).write_text("process 12345 on elsewhere")
    with locked(tmp_path):
        assert (tmp_path / LOCK).read_text().startswith(f"process {os.getpid()} on")


def test_patience(tmp_path: Path) -> None:
    first = locked(tmp_path)
    first.__enter__()
    release = threading.Timer(0.3, first.__exit__, (None, None, None))
    release.start()
    began = time.monotonic()
    with locked(tmp_path, patience=20.0):
        assert time.monotonic() - began >= 0.2
    release.join()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), locked(tmp_path):
        raise ZeroDivisionError
    with locked(tmp_path):
        pass


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught, locked(tmp_path / "file"):
        pass
    assert caught.value.filename == str(tmp_path / "file" / LOCK)
