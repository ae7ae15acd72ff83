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

import mireg
from eval import cost


def test_averages_weigh_the_phases_of_a_default_training() -> None:
    regularizer = mireg.wrap(
        torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)), weight=cost.ALWAYS
    ).regularizer
    active = sum(regularizer.weight(step) != 0 for step in range(cost.TRAINING))
    measured = -(-active // regularizer.balance.interval)
    means = cost.averages({"off": 1.0, "held": 1.0, "measured": 2.0})
    assert means["active"] == pytest.approx(1 + measured / active)
    assert means["training"] == pytest.approx(1 + measured / cost.TRAINING)


def test_the_default_stands_aside_or_not() -> None:
    row = {"training": 1.1, "ratio": {"off": 1.0, "measured": 3.0}}
    assert cost.default({**row, "needed": True}) == 1.1
    assert cost.default({**row, "needed": False}) == pytest.approx(1 + 2 / cost.TRAINING)


def test_phases_are_what_they_say() -> None:
    """Only a measured step captures anything."""
    setting = cost.Setting("tiny", "mlp", (1, 4, 4), {"depth": 3, "width": 8}, batch_size=8)
    training = cost.Training(setting, torch.device("cpu"), cost.ALWAYS)
    regularizer = training.model.regularizer
    for step, phase in ((30, "measured"), (31, "held"), (1999, "off")):
        assert cost.phase_of(regularizer, step) == phase
        training.go_to(step)
        assert regularizer.captures == (phase == "measured")
        training.step()


class InThisProcess:
    """Stands in for a context of processes: to start one takes as long as all other tests here."""

    def __init__(self, target: Callable[..., None], args: tuple[Any, ...]) -> None:
        self.start = functools.partial(target, *args)

    def join(self) -> None:
        pass

    @staticmethod
    def Pipe(duplex: bool) -> tuple[SimpleNamespace, SimpleNamespace]:  # noqa: N802
        sent: list[float] = []
        return SimpleNamespace(recv=sent.pop), SimpleNamespace(send=sent.append, close=lambda: None)


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
    assert row["needed"] is False
    assert row["default"] == pytest.approx(row["ratio"]["off"], abs=0.1)
    assert min(row["peak_mb"][name] for name in ("none", "default", "used")) > 10
    assert found["estimators"]["kde"] > 0
    assert [point["value"] for point in found["growth"]["batch"]] == [8, 16]
    assert (tmp_path / "c.png").stat().st_size > 1000
    assert "tiny" in capsys.readouterr().out
