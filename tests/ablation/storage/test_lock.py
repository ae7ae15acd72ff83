"""One owner at a time; a dead one leaves no claim."""

from __future__ import annotations

import os
import platform
import threading
import time
from pathlib import Path

import pytest

from mireg.ablation.errors import UserError
from mireg.ablation.storage.lock import Lock


def test_a_second_owner_is_refused_and_told_of_the_first(tmp_path: Path) -> None:
    owner = f"process {os.getpid()} on {platform.node()}"
    with (
        Lock(tmp_path / "lock"),
        pytest.raises(UserError, match=f"{tmp_path} is in use by {owner}.*another --out"),
        Lock(tmp_path / "lock"),
    ):
        pass
    with Lock(tmp_path / "lock") as again:
        assert again.left_by is None
    assert not list(tmp_path.iterdir())


def test_a_lock_without_an_owner_is_taken_over(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text('{"pid": 12345, "host": "elsewhere"}')
    with Lock(tmp_path / "lock") as lock:
        assert lock.left_by == "process 12345 on elsewhere"
    (tmp_path / "lock").write_text("{")
    with Lock(tmp_path / "lock") as lock:
        assert lock.left_by == "another process"


def test_patience(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    first.__enter__()
    release = threading.Timer(0.3, first.__exit__, (None, None, None))
    release.start()
    began = time.monotonic()
    with Lock(tmp_path / "lock", patience=20.0) as second:
        assert time.monotonic() - began >= 0.2
        assert second.left_by is None
    release.join()


def test_an_error_inside_lets_go(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), Lock(tmp_path / "lock"):
        raise ZeroDivisionError
    with Lock(tmp_path / "lock"):
        pass


def test_unwritable(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match=r"Not a directory|File exists") as caught, Lock(tmp_path / "file" / "lock"):
        pass
    assert caught.value.filename == str(tmp_path / "file" / "lock")
