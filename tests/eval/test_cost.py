"""The cost of the term, measured on a network small enough for a test."""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval import cost


def test_averages_weigh_the_phases_of_a_default_training() -> None:
    """20 measured steps at the start, every tenth after, 200 with a term, of 2,000."""
    means = cost.averages({"off": 1.0, "held": 1.0, "measured": 2.0})
    measured = 20 + 18
    assert means["active"] == pytest.approx(1 + measured / 200)
    assert means["training"] == pytest.approx(1 + measured / 2000)


def test_phases_are_what_they_say() -> None:
    """A measured step takes one more backward pass: it leaves a measurement behind, a held one does not."""
    setting = cost.Setting("tiny", "mlp", (1, 4, 4), {"depth": 3, "width": 8}, batch_size=8)
    training = cost.Training(setting, torch.device("cpu"), wrapped=True)
    regularizer = training.model.regularizer
    for step, phase, pending in ((30, "measured", True), (31, "held", False), (1999, "off", False)):
        assert cost.phase_of(regularizer, step) == phase
        training.go_to(step)
        training.step()
        assert (regularizer.balance._measured is not None) == pending


class InThisProcess:
    """Stands in for a context of processes: to start one takes as long as all other tests here."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.start = functools.partial(target, *args)

    def join(self) -> None:
        pass

    @staticmethod
    def Pipe(duplex: bool) -> tuple[SimpleNamespace, SimpleNamespace]:  # noqa: N802
        sent: list[float] = []
        return SimpleNamespace(recv=sent.pop), SimpleNamespace(send=sent.append)


InThisProcess.Process = InThisProcess


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = cost.Setting("tiny", "mlp", (1, 4, 4), {"depth": 4, "width": 8}, batch_size=8)
    monkeypatch.setattr(cost, "SETTINGS", (tiny,))
    monkeypatch.setattr(cost, "ESTIMATORS", ("kde",))
    monkeypatch.setattr(cost.multiprocessing, "get_context", lambda method: InThisProcess)
    monkeypatch.setattr(cost, "GROWTH", {"layers": ("depth", (3, 4)), "batch": ("batch_size", (8, 16))})
    assert cost.main(["--seconds", "0", "--json", str(tmp_path / "c.json"), "--figure", str(tmp_path / "c.png")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    (row,) = found["networks"]
    assert row["name"] == "tiny"
    assert set(row["ratio"]) == {"none", "off", "held", "measured"}
    assert row["ratio"]["none"] == 1
    assert {key: row[key] for key in ("active", "training")} == cost.averages(row["ratio"])
    assert row["peak_mb"]["none"] > 10
    assert found["estimators"]["kde"] > 0
    assert [point["value"] for point in found["growth"]["batch"]] == [8, 16]
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert "tiny" in capsys.readouterr().out
