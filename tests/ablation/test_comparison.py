"""compare() on a user's own loop: paired, resumed, in processes, reported, and refused in one line."""

from __future__ import annotations

import json
import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy

import mireg
from mireg.ablation import compare
from mireg.ablation.errors import UserError
from mireg.ablation.training.custom_loop import Run

SEEN: list[tuple[str, int, float, bool]] = []
"""By run: arm, seed, a weight before training and whether the network is wrapped."""


def train(run: Run) -> None:
    """Classes of noisy points, by a few layers of a network that starts slowly."""
    sizes = [8] * 6
    layers = [nn.Sequential(nn.Linear(a, b), nn.Sigmoid()) for a, b in pairwise(sizes)]
    network = nn.Sequential(*layers, nn.Linear(8, 2))
    SEEN.append((run.arm, run.seed, next(network.parameters())[0, 0].item(), False))
    model = run.wrap(network).to(run.device)
    SEEN[-1] = (*SEEN[-1][:3], isinstance(model, mireg.MIRegularized))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    for step in range(1, 21):
        x = torch.randn(64, 8)
        y = (x[:, 0] > 0).long()
        logits = model(x)
        loss = cross_entropy(logits, y) + run.mi_loss(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(step, train_loss=loss.item())
        if step % 10 == 0:
            run.log(step, accuracy=(logits.argmax(1) == y).float().mean().item())


def descend(run: Run) -> None:
    """A loss that falls with the steps."""
    run.wrap(nn.Linear(2, 2))
    for step in range(10, 101, 10):
        run.log(step, perplexity=1 + (run.seed + 1) / step)


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    out = tmp_path_factory.mktemp("compared")
    SEEN.clear()
    return out, compare(train, seeds=2, target=0.9, out=out)


def test_arms_of_a_seed_start_alike_and_none_is_bare(compared: tuple[Path, dict[str, Any]]) -> None:
    runs = {(arm, seed): (weight, wrapped) for arm, seed, weight, wrapped in SEEN[:4]}
    assert set(runs) == {(arm, seed) for arm in ("none", "mi") for seed in (0, 1)}
    for seed in (0, 1):
        assert runs["none", seed][0] == runs["mi", seed][0]
        assert (runs["none", seed][1], runs["mi", seed][1]) == (False, True)
    assert runs["none", 0][0] != runs["none", 1][0]


def test_the_summary_follows_the_schema(compared: tuple[Path, dict[str, Any]]) -> None:
    out, summary = compared
    assert json.loads((out / "summary.json").read_text()) == summary
    assert (summary["schema_version"], summary["study"]) == (1, "train")
    (cell,) = summary["cells"]
    assert (cell["cell"], cell["metric"], cell["mode"], cell["target"]) == ("train", "accuracy", "max", 0.9)
    assert cell["budget_steps"] == 20
    assert list(cell["arms"]) == ["none", "mi"]
    for arm in cell["arms"].values():
        assert arm["n_seeds"] == 2
        assert 0 <= arm["final_accuracy"]["mean"] <= 1
        assert len(arm["steps_to_target"]["values"]) == 2
    assert {"steps_ratio", "ci95", "p_value", "seconds_ratio"} <= set(cell["arms"]["mi"]["vs_none"])


def test_report_and_tensorboard(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    assert "train: 90% validation accuracy within 20 steps" in (out / "report.html").read_text()
    events = EventAccumulator(str(out / "runs" / "train" / "mi" / "seed-0"))
    events.Reload()
    assert [event.step for event in events.Scalars("validation/accuracy")] == [10, 20]
    assert len(events.Scalars("logged/train_loss")) == 20
    (text,) = events.Tensors("configuration/text_summary")
    assert b"| arm | mi |" in text.tensor_proto.string_val[0]


def test_again_runs_nothing_and_more_seeds_and_arms_are_added(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    before = len(SEEN)
    compare(train, seeds=2, target=0.9, out=out)
    assert len(SEEN) == before
    (out / "runs/train/mi/seed-1/result.json").write_text("{")
    summary = compare(train, arms=("none", "mi", "target-shuffled"), seeds=2, target=0.9, out=out)
    assert [run[:2] for run in SEEN[before:]] == [("target-shuffled", 0), ("mi", 1), ("target-shuffled", 1)]
    assert summary["cells"][0]["arms"]["target-shuffled"]["n_seeds"] == 2


def test_other_settings_are_refused(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    with pytest.raises(UserError, match=r"other settings \(target: 0.9 → 0.8\)"):
        compare(train, seeds=2, target=0.8, out=out)
    with pytest.raises(UserError, match=r"name: train → descend"):
        compare(descend, metric="accuracy", target=0.9, seeds=2, out=out)


def test_less_is_better_and_any_metric_has_a_name(tmp_path: Path) -> None:
    summary = compare(descend, seeds=2, metric="perplexity", mode="min", target=1.05, out=tmp_path)
    (cell,) = summary["cells"]
    none = cell["arms"]["none"]
    assert (cell["metric"], cell["mode"]) == ("perplexity", "min")
    assert none["steps_to_target"]["values"] == [20, 40]
    assert none["final_metric"]["mean"] == pytest.approx(1.015)


def test_in_processes(tmp_path: Path) -> None:
    summary = compare(descend, seeds=2, metric="perplexity", mode="min", out=tmp_path, workers=2)
    assert summary["cells"][0]["arms"]["mi"]["final_metric"]["mean"] == pytest.approx(1.015)


def fails(run: Run) -> None:
    run.wrap(nn.Linear(2, 2))
    run.log(1, accuracy=0.5)
    if run.arm == "mi":
        raise ZeroDivisionError("division by zero")


def breaks(run: Run) -> None:
    run.wrap(nn.Linear(2, 2))
    run.log(1, accuracy=0.5)
    run.log(2, accuracy=math.nan if run.arm == "mi" else 0.6)


def forgets(run: Run) -> None:
    run.log(1, loss=0.5)


def goes_back(run: Run) -> None:
    run.log(2, accuracy=0.5)
    run.log(1, accuracy=0.5)


def unwrapped(run: Run) -> None:
    run.mi_loss()


def test_an_error_is_named_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="fails/mi/seed-0: ZeroDivisionError: division by zero; finished runs are"):
        compare(fails, seeds=1, out=tmp_path)
    assert [path.parts[-3] for path in tmp_path.glob("runs/*/*/*/result.json")] == ["none"]


def test_a_metric_that_is_not_finite_ends_its_run(tmp_path: Path) -> None:
    arms = compare(breaks, seeds=1, out=tmp_path)["cells"][0]["arms"]
    assert (arms["none"]["n_failed"], arms["mi"]["n_failed"]) == (0, 1)


@pytest.mark.parametrize(
    ("loop", "error", "message"),
    [
        (forgets, UserError, r"forgets/none/seed-0: forgets never called run.log\(step, accuracy=...\)"),
        (goes_back, RuntimeError, r"run.log\(1, ...\) came after run.log\(2, ...\): steps must grow"),
        (unwrapped, RuntimeError, r"run.mi_loss\(\) came before run.wrap\(network\)"),
    ],
)
def test_mistakes_in_a_loop(tmp_path: Path, loop: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        compare(loop, seeds=1, arms=("none",), out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"arms": ("none", "batchnorm")},
            "arm 'batchnorm' does not apply to a loop of one's own: choose from none, mi",
        ),
        ({"arms": ("none", "mj")}, r"unknown arm 'mj': choose from none, mi"),
        ({"arms": ("mi", "mi")}, "name each once"),
        ({"seeds": 0}, "seeds=0: give at least 1"),
        ({"workers": 0}, "workers=0: give at least 1"),
        ({"mode": "least"}, "mode='least': choose from max, min"),
        ({"metric": "loss"}, "mode='max': loss has mode 'min'; give it"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(train, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_workers_need_a_loop_that_can_be_imported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers=2: other processes cannot import '<lambda>'; define it at the top"):
        compare(lambda run: None, workers=2, out=tmp_path / "out")
