"""The cost of the term, measured on a network small enough for a test."""

from __future__ import annotations

import functools
import json
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from eval import cost
from mireg.timing import active_steps
from mireg.wrapper import DEFAULT_WEIGHT


def test_averages_weigh_the_phases_of_a_default_training() -> None:
    means = cost.averages({"off": 1.0, "used": 2.0})
    used = sum(DEFAULT_WEIGHT(step) != 0 for step in range(cost.TRAINING))
    assert means == {"active": 2.0, "training": pytest.approx(1 + used / cost.TRAINING)}
    assert 0 < used < cost.TRAINING


def test_the_term_is_active_at_the_moments_that_are_timed_and_layers_take_turns() -> None:
    setting = cost.Setting("tiny", "mlp", (1, 4, 4), {"depth": 5, "width": 8}, batch_size=8)
    training = cost.Training(setting, torch.device("cpu"), DEFAULT_WEIGHT)
    model: Any = training.model

    def read_at(step: int) -> set[str]:
        model.regularizer.terms.clear()
        training.step_at(step)
        assert model.regularizer.steps == step + 1
        return {name.removesuffix("→target") for name in model.mi_terms() if name.endswith("→target")}

    every = {"input", *(f"layers.{index}" for index in range(5))}
    assert read_at(0) == every  # all are read at first
    read = [read_at(step) for step in active_steps(DEFAULT_WEIGHT, cost.MOMENTS)]
    assert all("layers.4" in names and len(names) < 6 for names in read)
    assert not read_at(100_000)  # the schedule has ended


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


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    tiny = cost.Setting("tiny", "mlp", (1, 4, 4), {"depth": 4, "width": 8}, batch_size=8)
    monkeypatch.setattr(cost, "SETTINGS", (tiny,))
    monkeypatch.setattr(cost, "ESTIMATORS", ("kde",))
    monkeypatch.setattr(
        multiprocessing, "get_context", lambda method: SimpleNamespace(Process=InThisProcess, Pipe=InThisProcess.Pipe)
    )
    monkeypatch.setattr(cost, "GROWTH", {"layers": ("depth", (3, 4)), "batch": ("batch_size", (8, 16))})
    assert cost.main(["--seconds", "0", "--json", str(tmp_path / "c.json")]) == 0
    found = json.loads((tmp_path / "c.json").read_text())
    (row,) = found["networks"]
    assert row["name"] == "tiny"
    assert set(row["ratio"]) == {"none", "off", "used"}
    assert row["ratio"]["none"] == 1
    assert {key: row[key] for key in ("active", "training")} == cost.averages(row["ratio"])
    assert min(row["peak_mb"][name] for name in ("none", "used")) > 10
    assert found["estimators"]["kde"] > 0
    assert [point["value"] for point in found["growth"]["batch"]] == [8, 16]
    assert "tiny" in capsys.readouterr().out
