"""One run: resumed to the bit, stopped by what is not finite, and never the wiser for a strange clock."""

from __future__ import annotations

import itertools
import json
import random
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn

from mireg.ablation.arms import Term
from mireg.ablation.data import Dataset, load
from mireg.ablation.errors import Stopped, UserError
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.training.loop import Window
from tests.ablation.running import train

CPU = torch.device("cpu")
STEPS, EVERY = 12, 5


@pytest.fixture(scope="module")
def digits() -> Dataset:
    return load("digits", Path())


class Noise(nn.Module):
    """Draws from numpy's and Python's streams, as a network of a user's own may."""

    def forward(self, x: Tensor) -> Tensor:
        return x * (1 + 0.1 * np.random.standard_normal() + 0.1 * random.random()) if self.training else x


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    """Small, with every kind of state: running statistics and three random-number streams."""
    return nn.Sequential(
        nn.Flatten(),
        nn.Sequential(nn.Linear(64, 12), nn.BatchNorm1d(12), nn.Tanh()),
        nn.Dropout(0.2),
        Noise(),
        nn.Sequential(nn.Linear(12, 12), nn.Tanh()),
        nn.Linear(12, dataset.outputs),
    )


def spec(arm: str = "mi", **options: Any) -> RunSpec:
    cell = {"name": "tiny", "dataset": "digits", "model": "own", "target": 0.8, "steps": STEPS, "eval_every": EVERY}
    return RunSpec(Cell(**{**cell, "batch_size": 500, **options}), arm, 3, Term(decay_steps=10))


def run(
    folder: Path,
    digits: Dataset,
    what: RunSpec | None = None,
    *,
    build: Callable[..., nn.Module] = build,
    stop_after: int | None = None,
    checkpoint_seconds: float = 1e9,
) -> list[dict[str, Any]]:
    """Train, asked to stop after some steps, and return the events told."""
    asked = itertools.count()
    events: list[dict[str, Any]] = []
    train(
        what or spec(),
        digits,
        build,
        folder,
        checkpoint_seconds=checkpoint_seconds,
        tell=events.append,
        stop=lambda: next(asked) == stop_after,
    )
    return events


def outcome(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """The weights, and the result without what a clock decides."""
    result = json.loads((folder / "result.json").read_text())
    for timed in (result, *result["curve"]):
        for key in ("seconds", "step_ms", "sha256"):
            timed.pop(key, None)
    return (folder / "weights.pt").read_bytes(), result


ARMS = ["none", "mi", "target-shuffled", "mi-binning", "lbe"]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, digits: Dataset) -> dict[str, Any]:
    folders = {arm: tmp_path_factory.mktemp(arm) for arm in ARMS}
    for arm, folder in folders.items():
        run(folder, digits, spec(arm))
    return {arm: outcome(folder) for arm, folder in folders.items()}


class TestResume:
    @pytest.mark.parametrize("arm", ARMS)
    @pytest.mark.parametrize("optimizer", ["adam", "sgd"])
    def test_stopped_at_every_second_step(
        self, tmp_path: Path, digits: Dataset, undisturbed: dict[str, Any], arm: str, optimizer: str
    ) -> None:
        what, whole = spec(arm, optimizer=optimizer), undisturbed[arm]
        if optimizer == "sgd":
            run(tmp_path / "whole", digits, what)
            whole = outcome(tmp_path / "whole")
        for _ in range(STEPS // 2 - 1):
            with pytest.raises(Stopped):
                run(tmp_path / "cut", digits, what, stop_after=2)
        run(tmp_path / "cut", digits, what)
        assert outcome(tmp_path / "cut") == whole

    @pytest.mark.parametrize("stop_after", [0, 1, EVERY])
    def test_no_point_is_missing_in_tensorboard(self, tmp_path: Path, digits: Dataset, stop_after: int) -> None:
        with pytest.raises(Stopped):
            run(tmp_path, digits, stop_after=stop_after)
        run(tmp_path, digits)
        steps = [event.step for event in EventAccumulator(str(tmp_path)).Reload().Scalars("validation/accuracy")]
        assert steps == [point["step"] for point in outcome(tmp_path)[1]["curve"]]

    @settings(max_examples=15)
    @given(stop_after=st.integers(0, STEPS - 1), damage=st.sampled_from(["cut", "gone"]))
    def test_from_the_start_where_the_checkpoint_is_damaged(
        self,
        tmp_path_factory: pytest.TempPathFactory,
        digits: Dataset,
        undisturbed: dict[str, Any],
        stop_after: int,
        damage: str,
    ) -> None:
        folder = tmp_path_factory.mktemp("damaged")
        with pytest.raises(Stopped):
            run(folder, digits, stop_after=stop_after, checkpoint_seconds=0)
        (folder / "checkpoint.pt").write_bytes((folder / "checkpoint.pt").read_bytes()[:-7])
        if damage == "gone":
            (folder / "checkpoint.pt").unlink()
        events = run(folder, digits)
        notes = [event["text"] for event in events if event["event"] == "note"]
        assert len(notes) == (damage != "gone")
        assert all("checkpoint.pt is damaged: the run begins again" in note for note in notes)
        assert next(event for event in events if event["event"] == "start")["step"] == 0
        assert outcome(folder) == undisturbed["mi"]

    def test_curves_have_each_point_once(self, tmp_path: Path, digits: Dataset) -> None:
        with pytest.raises(Stopped):  # at an evaluation, its point already in the checkpoint
            run(tmp_path, digits, stop_after=EVERY)
        for cut in (6, 5):  # killed past another evaluation, with nothing saved: the point is written again
            with pytest.raises(Killed):
                run(tmp_path, digits, build=dies_after(cut))
        run(tmp_path, digits)
        events = EventAccumulator(str(tmp_path))
        events.Reload()
        for tag in events.Tags()["scalars"]:
            steps = [event.step for event in events.Scalars(tag)]
            assert steps == sorted(set(steps)), tag
        for tag in ("validation/accuracy", "mi_nats/000_input→1"):
            assert [event.step for event in events.Scalars(tag)] == [0, 5, 10, 12]
        result = json.loads((tmp_path / "result.json").read_text())
        assert [point["step"] for point in result["curve"]] == [0, 5, 10, 12]

    def test_of_other_settings_is_refused(self, tmp_path: Path, digits: Dataset) -> None:
        with pytest.raises(Stopped):
            run(tmp_path, digits, stop_after=3)
        with pytest.raises(UserError, match=r"cell.lr: 0.001 → 0.5.*another --out"):
            run(tmp_path, digits, spec(lr=0.5))


class Killed(Exception):  # noqa: N818  # an event, not an error
    """Stands for a kill: nothing is saved."""


def dies_after(steps: int) -> Callable[..., nn.Module]:
    def dying(cell: Cell, dataset: Dataset) -> nn.Module:
        network, left = build(cell, dataset), itertools.count()

        def count(module: nn.Module, arguments: Any) -> None:
            if module.training and next(left) == steps:
                raise Killed

        network.register_forward_pre_hook(count)
        return network

    return dying


class Break(torch.autograd.Function):
    """The identity, with a gradient that is not a number."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return gradient * float("nan")


class Breaks(nn.Module):
    """Breaks the loss, or the gradient alone, in its fourth training step."""

    def __init__(self, what: str) -> None:
        super().__init__()
        self.what = what
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        if self.passes < 4 or not self.training:
            return x
        return x * float("inf") if self.what == "loss" else Break.apply(x)


@pytest.mark.parametrize("arm", ["none", "mi"])
class TestNotFinite:
    def broken(self, folder: Path, digits: Dataset, arm: str, what: str) -> dict[str, Any]:
        def breaking(cell: Cell, dataset: Dataset) -> nn.Module:
            return nn.Sequential(build(cell, dataset), Breaks(what))

        events = run(folder, digits, spec(arm), build=breaking, checkpoint_seconds=0)
        result: dict[str, Any] = json.loads((folder / "result.json").read_text())
        assert events[-1] == {"event": "finish", "run": spec(arm).path, "failure": result["failure"]}
        weights = torch.load(folder / "weights.pt", weights_only=True)
        assert all(value.isfinite().all() for value in weights.values())
        assert (folder / "checkpoint.pt").exists()
        return result

    def test_loss(self, tmp_path: Path, digits: Dataset, arm: str) -> None:
        result = self.broken(tmp_path, digits, arm, "loss")
        assert result["failure"] == f"step 3, arm {arm}: the task loss is nan; a lower learning rate may help"
        assert [point["step"] for point in result["curve"]] == [0]

    def test_gradient(self, tmp_path: Path, digits: Dataset, arm: str) -> None:
        result = self.broken(tmp_path, digits, arm, "gradient")
        start = f"step 3, arm {arm}: the gradient of the task loss is not finite, in 0.1.0.weight, 0.1.0.bias"
        assert result["failure"].startswith(start)
        assert result["failure"].endswith(" more")


@pytest.mark.parametrize("where", ["value", "gradient"])
def test_a_broken_term_is_named(tmp_path: Path, digits: Dataset, monkeypatch: pytest.MonkeyPatch, where: str) -> None:
    from mireg.wrapper import MIRegularized

    whole = MIRegularized.mi_loss

    def broken(self: MIRegularized, target: Tensor) -> Tensor:
        term = whole(self, target)
        return term * float("nan") if where == "value" else Break.apply(term)

    monkeypatch.setattr(MIRegularized, "mi_loss", broken)
    run(tmp_path, digits)
    failure = json.loads((tmp_path / "result.json").read_text())["failure"]
    if where == "value":
        assert failure == "step 0, arm mi: the MI term is not finite, in its weight"
    else:
        assert failure.startswith("step 0, arm mi: the gradient of the MI term is not finite, in 1.0.weight")


def test_a_clock_that_goes_backwards(
    tmp_path: Path, digits: Dataset, undisturbed: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("time", "perf_counter", "monotonic"):
        clock = itertools.count(getattr(time, name)(), -3600)
        monkeypatch.setattr(time, name, lambda clock=clock: next(clock))
    with pytest.raises(Stopped):
        run(tmp_path, digits, stop_after=6)
    run(tmp_path, digits)
    monkeypatch.undo()
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["seconds"] == 0.0
    assert outcome(tmp_path) == undisturbed["mi"]


@pytest.mark.parametrize("arm", ["none", "mi", "target-shuffled", "mi-kde"])
def test_a_result_says_how_to_read_its_estimates(arm: str, digits: Dataset, tmp_path: Path) -> None:
    found = result_of(arm, digits, tmp_path)["estimates"]
    assert ("rewarded" in found) == (arm != "none")
    for of, scale in found.items():
        assert scale["estimator"] == ("usable" if of == "rewarded" and arm != "mi-kde" else "kde")
        assert scale["samples"] == 128
        assert -0.5 < scale["floor"] < 0.5 < scale["ceiling"]


def test_measuring_the_floor_changes_no_run(digits: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with_it = result_of("mi", digits, tmp_path / "with")
    monkeypatch.setattr("mireg.ablation.training.loop.scales", lambda *about: {})
    without = result_of("mi", digits, tmp_path / "without")
    assert with_it["weights_sha256"] == without["weights_sha256"]
    assert with_it["test_accuracy"] == without["test_accuracy"]


def result_of(arm: str, digits: Dataset, folder: Path) -> dict[str, Any]:
    train(spec(arm), digits, build, folder)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_a_term_and_a_loss_of_zero_have_a_share() -> None:
    window = Window()
    window.add(torch.zeros(()), torch.zeros(()), 0.1)
    window.add(torch.ones(()), torch.ones(()), 0.1)
    assert window.summary()["term_share"] == 0.25
