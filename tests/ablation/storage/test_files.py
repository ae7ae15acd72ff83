"""Files are whole or absent, and damage shows."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mireg.ablation.storage.files import DamagedError, read_result, read_sealed, write_bytes, write_result, write_sealed

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
@given(where=st.integers(0, 10**6), bit=st.integers(0, 7), cut=st.booleans())
def test_any_damage_to_a_sealed_file_shows(tmp_path: Path, where: int, bit: int, cut: bool) -> None:
    path = tmp_path / "sealed"
    write_sealed(path, {"x": torch.arange(10.0), "step": 3})
    whole = path.read_bytes()
    where %= len(whole)
    flipped = bytes([whole[where] ^ (1 << bit)])
    path.write_bytes(whole[:where] if cut else whole[:where] + flipped + whole[where + 1 :])
    with pytest.raises(DamagedError, match="sealed is damaged"):
        read_sealed(path, CPU)


class Trojan:
    """Runs code when it is unpickled."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("true",)


def test_a_sealed_file_cannot_run_code(tmp_path: Path) -> None:
    write_sealed(tmp_path / "sealed", Trojan())
    with pytest.raises(Exception, match="Weights only load failed"):
        read_sealed(tmp_path / "sealed", CPU)


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
