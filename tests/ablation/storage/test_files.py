"""Files are whole or absent, and damage shows."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mireg.ablation.random_state import random_state, seed_everything, set_random_state
from mireg.ablation.storage.files import (
    DamagedError,
    read_result,
    read_tensors,
    write_bytes,
    write_result,
    write_tensors,
)

CPU = torch.device("cpu")


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_failed_write_leaves_the_old_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "file"
    write_bytes(path, b"old")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os if call == "fsync" else Path, call, full)
    with pytest.raises(OSError, match="No space left on device") as caught:
        write_bytes(path, b"new")
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@settings(max_examples=50)
@given(where=st.integers(0, 10**6))
def test_a_file_of_tensors_that_was_cut_is_damaged(tmp_path: Path, where: int) -> None:
    path = tmp_path / "state.pt"
    write_tensors(path, {"x": torch.arange(10.0), "step": 3})
    whole = path.read_bytes()
    path.write_bytes(whole[: where % len(whole)])
    with pytest.raises(DamagedError, match=r"state.pt is damaged"):
        read_tensors(path, CPU)


def test_tensors_come_back_to_the_random_streams(tmp_path: Path) -> None:
    def draw() -> tuple[object, ...]:
        return random.random(), np.random.standard_normal(), torch.randn(3).tolist()

    assert read_tensors(tmp_path / "state", CPU) is None
    seed_everything(3)
    first = draw()  # numpy keeps the second of a pair of normal numbers
    write_tensors(tmp_path / "state", random_state(CPU))
    after = draw(), draw()
    set_random_state(read_tensors(tmp_path / "state", CPU), CPU)
    assert (draw(), draw()) == after
    seed_everything(3)
    assert draw() == first


class Trojan:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_file_of_tensors_cannot_run_code(tmp_path: Path) -> None:
    write_tensors(tmp_path / "state.pt", Trojan())
    with pytest.raises(DamagedError):
        read_tensors(tmp_path / "state.pt", CPU)


RESULT = {"accuracy": 0.1 + 0.2, "curve": [{"step": 0, "loss": None}], "pair": "a→b"}


class TestResult:
    def test_comes_back(self, tmp_path: Path) -> None:
        assert read_result(tmp_path / "result.json") is None
        write_result(tmp_path / "result.json", RESULT)
        assert read_result(tmp_path / "result.json") == RESULT

    @pytest.mark.parametrize("damage", ["cut", "digit", "not a dictionary", "bytes"])
    def test_damage_shows(self, tmp_path: Path, damage: str) -> None:
        path = tmp_path / "result.json"
        write_result(path, RESULT)
        text = path.read_text()
        changed = {
            "cut": text[: len(text) // 2].encode(),
            "digit": text.replace("0.30000000000000004", "0.90000000000000004").encode(),
            "not a dictionary": b"[]",
            "bytes": b"\xff\xfe\x00",
        }[damage]
        assert changed != text.encode()
        path.write_bytes(changed)
        with pytest.raises(DamagedError, match=r"result.json is damaged"):
            read_result(path)

    def test_refuses_what_json_has_not(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match="not JSON compliant"):
            write_result(tmp_path / "result.json", {"loss": float("nan")})
        assert not list(tmp_path.iterdir())
