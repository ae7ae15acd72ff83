"""compare() on a user's own loop: paired, resumed, in processes, reported, and refused in one line."""

from __future__ import annotations

import importlib
import json
import linecache
import math
import os
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import mireg
from mireg.ablation import compare
from mireg.ablation.errors import UserError
from mireg.ablation.report.sources import report
from mireg.ablation.study.pairing import unpaired
from mireg.ablation.training.run import Run

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
    return out, compare(train, seeds=2, goal=0.9, out=out)


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


def test_again_runs_nothing_and_more_seeds_and_arms_are_added(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    before = len(SEEN)
    compare(train, seeds=2, goal=0.9, out=out)
    assert len(SEEN) == before
    (out / "runs/train/mi/seed-1/result.json").write_text("{")
    summary = compare(train, arms=("none", "mi", "target-shuffled"), seeds=2, goal=0.9, out=out)
    assert [run[:2] for run in SEEN[before:]] == [("target-shuffled", 0), ("mi", 1), ("target-shuffled", 1)]
    assert summary["cells"][0]["arms"]["target-shuffled"]["n_seeds"] == 2


def test_other_settings_are_refused(compared: tuple[Path, dict[str, Any]]) -> None:
    out, _ = compared
    with pytest.raises(UserError, match=r"other settings \(cell.target: 0.9 → 0.8\)"):
        compare(train, seeds=2, target=0.8, out=out)
    with pytest.raises(UserError, match="holds the study 'train', not 'descend'"):
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


def breaks_at_once(run: Run) -> None:
    run.wrap(nn.Linear(2, 2))
    run.log(1, accuracy=math.nan if run.arm == "mi" else 0.6)


def misses_a_file(run: Run) -> None:
    run.log(1, accuracy=0.5)
    if run.arm == "mi":
        Path("/nowhere/data.bin").read_bytes()


def counts_oddly(step: Any) -> Any:
    return lambda run: run.log(step, accuracy=0.5)


def in_per_cent(run: Run) -> None:
    run.log(1, accuracy=85)


def only_at_0(run: Run) -> None:
    run.log(0, accuracy=0.5)


class Arrays:
    def state_dict(self) -> dict[str, Any]:
        return {"x": np.arange(3)}


def saves_arrays(run: Run) -> None:
    run.save(1, model=nn.Linear(2, 2), table=Arrays())


def goes_back(run: Run) -> None:
    run.log(2, accuracy=0.5)
    run.log(1, accuracy=0.5)


def unwrapped(run: Run) -> None:
    run.mi_loss()


def test_an_error_is_named_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        compare(fails, seeds=1, out=tmp_path)
    note = "fails/mi/seed-0: ZeroDivisionError: division by zero; finished runs are kept: "
    note += "the same call continues, with keep=True once your code has changed"
    assert raised.value.__notes__ == [note]
    with pytest.raises(RuntimeError, match=f"^{re.escape(note)}$"):
        compare(fails, seeds=1, out=tmp_path, workers=2)
    assert [path.parts[-3] for path in tmp_path.glob("runs/*/*/*/result.json")] == ["none"]


def test_a_metric_that_is_not_finite_ends_its_run(tmp_path: Path) -> None:
    arms = compare(breaks, seeds=1, out=tmp_path)["cells"][0]["arms"]
    assert (arms["none"]["n_failed"], arms["mi"]["n_failed"]) == (0, 1)


def test_a_run_that_breaks_at_its_first_point_is_one_of_its_arm(tmp_path: Path) -> None:
    arms = compare(breaks_at_once, seeds=1, goal=0.5, out=tmp_path)["cells"][0]["arms"]
    assert (arms["none"]["n_failed"], arms["mi"]["n_failed"], arms["mi"]["final_accuracy"]["mean"]) == (0, 1, None)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_file_that_a_loop_cannot_read_is_an_error_of_its_run(tmp_path: Path, workers: int) -> None:
    with pytest.raises(FileNotFoundError if workers == 1 else RuntimeError) as raised:
        compare(misses_a_file, ("mi", "other", "none"), seeds=1, out=tmp_path, workers=workers)
    text = "".join(getattr(raised.value, "__notes__", [str(raised.value)]))
    assert "misses_a_file/mi/seed-0: FileNotFoundError: [Errno 2] No such file" in text
    assert len(list(tmp_path.glob("runs/*/*/*/result.json"))) == 2


@pytest.mark.parametrize("step", [np.int64(3), torch.tensor(3)])
def test_a_step_may_be_an_integer_of_any_kind(tmp_path: Path, step: Any) -> None:
    cell = compare(counts_oddly(step), ("none",), seeds=1, out=tmp_path)["cells"][0]
    assert cell["budget_steps"] == 3


def test_a_goal_needs_a_point_after_step_0(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="only_at_0: all points are of step 0, and a goal is reached after it"):
        compare(only_at_0, ("none",), seeds=1, goal=0.4, out=tmp_path)


@pytest.mark.parametrize("record", [None, "{}"])
def test_fresh_removes_no_folder_that_is_of_no_study(tmp_path: Path, record: str | None) -> None:
    (tmp_path / "tuning").mkdir()
    (tmp_path / "tuning/notes.txt").write_text("mine")
    if record:
        (tmp_path / "study.json").write_text(record)
    with pytest.raises(UserError, match="tuning is of no study, and is not removed: move it, or give another --out"):
        compare(only_at_0, ("none",), seeds=1, out=tmp_path, fresh=True)
    assert (tmp_path / "tuning/notes.txt").read_text() == "mine"


def test_home_is_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    compare(only_at_0, ("none",), seeds=1, out="~/results")
    assert (tmp_path / "results/summary.json").exists()


@pytest.mark.parametrize(
    ("loop", "error", "message"),
    [
        (forgets, UserError, r"forgets/none/seed-0: the loop never called run.log\(step, accuracy=...\), only loss"),
        (counts_oddly(1.5), ValueError, r"run.log\(1.5, ...\): give a whole number, the training steps so far"),
        (counts_oddly(-5), ValueError, r"run.log\(-5, ...\): give a whole number"),
        (counts_oddly("3"), ValueError, r"run.log\('3', ...\): give a whole number"),
        (in_per_cent, UserError, "in_per_cent/none/seed-0, step 1: an accuracy of 85 is above 1: divide it by 100"),
        (saves_arrays, UserError, r"run.save\(table=...\): its state could not be restored: .*turn NumPy arrays into"),
        (goes_back, ValueError, r"run.log\(1, ...\) came after run.log\(2, ...\): steps must grow"),
        (unwrapped, RuntimeError, r"run.mi_loss\(\) came before run.wrap\(network\)"),
    ],
)
def test_mistakes_in_a_loop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, loop: Any, error: type[Exception], message: str
) -> None:
    monkeypatch.setattr("mireg.ablation.comparison.CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(error, match=message):
        compare(loop, seeds=1, arms=("none",), out=tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"arms": ("none", "nowhere:Arm")}, "nowhere:Arm: no module 'nowhere'"),
        ({"arms": ("none", "json:loads")}, "json:loads is no arm: it has a parameter 's'; a loss term takes some of"),
        ({"arms": ("none", "a/b")}, "arm='a/b': use letters, digits"),
        ({"arms": ()}, "name at least one"),
        ({"goal": 0.9, "target": 0.9}, "give goal or target"),
        ({"fresh": True, "keep": True}, "give fresh or keep, not both"),
        ({"lrs": (0.0,)}, "lr=0.0: give a positive number"),
        ({"arms": ("mi", "mi")}, "name each once"),
        ({"seeds": 0}, "seeds=0: give at least 1"),
        ({"workers": 0}, "workers=0: give at least 1"),
        ({"workers": 1.5}, "workers=1.5: give at least 1, a whole number"),
        ({"seeds": 2.5}, "seeds=2.5: give at least 1, a whole number"),
        ({"goal": "0.5"}, "goal='0.5': give a number"),
        ({"arms": "mi"}, "arms='mi': give a tuple of names"),
        ({"mode": "least"}, "mode='least': choose from max, min"),
        ({"metric": "loss", "mode": "max"}, "mode='max': loss has mode 'min'; give it"),
    ],
)
def test_refused(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        compare(train, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def looks_around(run: Run) -> None:
    run.log(1, loss=float(os.environ["SEEN_BY_A_TEST"]))


def test_workers_have_the_environment_of_the_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for value in (1.0, 2.0):
        monkeypatch.setenv("SEEN_BY_A_TEST", str(value))
        found = compare(looks_around, ("none",), seeds=1, metric="loss", out=tmp_path / str(value), workers=2)
        assert found["cells"][0]["arms"]["none"]["final_metric"]["mean"] == value


def test_workers_need_a_loop_that_can_be_imported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="workers=2: other processes cannot import '<lambda>'; define it at the top"):
        compare(lambda run: None, workers=2, out=tmp_path / "out")


def noisy(run: Run) -> None:
    """The same loop for arms of any kind, with a loader that has a worker process."""
    network = run.wrap(nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)), DATA[0])
    parameters = network.parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.05 if run.arm == "slow" else 0.5)
    loader = DataLoader(TensorDataset(*DATA), batch_size=16, shuffle=True, num_workers=1)
    for step, (x, y) in enumerate(loader, 1):
        outputs = network(x)
        loss = cross_entropy(outputs, y)
        optimizer.zero_grad()
        (loss + run.mi_loss(y, loss=loss)).backward()
        optimizer.step()
        run.log(step, loss=loss.item())


GENERATOR = torch.Generator().manual_seed(0)
DATA = (torch.randn(64, 4, generator=GENERATOR), torch.arange(64) % 2)


def half_norm(outputs: torch.Tensor) -> torch.Tensor:
    """An arm: a term on the outputs."""
    return 0.5 * outputs.square().mean()


ARMS = ("none", "mi", "slow", "lbe", "deep-supervision", "tests.ablation.test_comparison:half_norm")


def test_arms_of_every_kind_in_worker_processes_with_loaders(tmp_path: Path) -> None:
    (cell,) = compare(noisy, ARMS, seeds=1, metric="loss", out=tmp_path, workers=2)["cells"]
    finals = {arm: found["final_metric"]["mean"] for arm, found in cell["arms"].items()}
    assert set(finals) == set(ARMS)
    assert len(set(finals.values())) == len(ARMS)
    results = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/result.json")]
    assert unpaired(results) == {}
    assert len({result["pairing"]["batches"] for result in results}) == 1


def test_an_arm_that_nobody_reads_is_a_mistake(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"arm 'mj' changed nothing.*the loop never read run.arm"):
        compare(descend, ("none", "mj"), seeds=1, metric="perplexity", mode="min", out=tmp_path)


def needs_example(run: Run) -> None:
    run.wrap(nn.Linear(2, 2))


def test_an_arm_that_must_see_the_layers_asks_for_an_example(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"arm 'lbe' sees the layers in advance: call run.wrap\(network, x\)"):
        compare(needs_example, ("lbe",), seeds=1, out=tmp_path)


def unequal(run: Run) -> None:
    if run.arm == "mi":
        torch.randn(1)
    model = run.wrap(nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2)))
    order = torch.randperm(64)
    y = DATA[1][order]
    (cross_entropy(model(DATA[0][order]), y) + run.mi_loss(y)).backward()
    run.log(1, accuracy=0.5)


def test_arms_that_do_not_start_alike_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(unequal, seeds=1, out=tmp_path)
    assert "arm 'mi' and 'none' of a seed do not have equal weights and batches" in capsys.readouterr().err


def rates(run: Run) -> None:
    run.wrap(nn.Linear(2, 2))
    for step in (1, 2, 3):
        run.log(step, accuracy=min(1.0, step * run.lr))


def test_a_learning_rate_is_chosen_in_the_same_way_for_every_arm(tmp_path: Path) -> None:
    summary = compare(rates, seeds=2, lrs=(0.1, 0.3), goal=0.5, out=tmp_path)
    (cell,) = summary["cells"]
    assert {arm: found["lr"] for arm, found in cell["arms"].items()} == {"none": 0.3, "mi": 0.3}
    assert cell["arms"]["mi"]["steps_to_target"]["values"] == [2, 2]
    tried = summary["tuning"]["rates"]
    assert tried["none"] == tried["mi"]
    assert tried["mi"]["0.3"]["accuracy"] == [0.6, 0.6]  # ended at the goal
    seeds = {path.name for path in (tmp_path / "tuning").glob("rates/*/*/seed-*")}
    assert seeds == {"seed-10000", "seed-10001"}


def without_rates(run: Run) -> None:
    run.lr  # noqa: B018


def test_no_rate_without_choices(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run.lr is chosen from compare\(..., lrs=\(...\)\)"):
        compare(without_rates, ("none",), seeds=1, out=tmp_path)


KILL_AT: list[int] = []
WEIGHTS: list[torch.Tensor] = []


def resumable(run: Run) -> None:
    model = run.wrap(
        nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Dropout(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    )
    optimizer = torch.optim.Adam(model.parameters())
    for step in range(run.restore(model=model, optimizer=optimizer), 6):
        run.save(step, model=model, optimizer=optimizer)
        if step in KILL_AT:
            KILL_AT.remove(step)
            raise KeyboardInterrupt
        loss = cross_entropy(model(DATA[0]), DATA[1]) + run.mi_loss(DATA[1])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        run.log(step + 1, accuracy=1 / (1 + loss.item()))
    WEIGHTS.append(next(model.parameters()).detach().clone())


def test_a_killed_run_continues_and_ends_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mireg.ablation.comparison.CHECKPOINT_SECONDS", 0.0)
    compare(resumable, ("mi",), seeds=1, out=tmp_path / "whole")
    KILL_AT.extend([2, 4])
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            compare(resumable, ("mi",), seeds=1, out=tmp_path / "killed")
    compare(resumable, ("mi",), seeds=1, out=tmp_path / "killed")
    assert torch.equal(*WEIGHTS)
    curves = [
        [
            (point["step"], point["validation_accuracy"])
            for point in json.loads((tmp_path / name / "runs/resumable/mi/seed-0/result.json").read_text())["curve"]
        ]
        for name in ("whole", "killed")
    ]
    assert curves[0] == curves[1]


def write_loop(folder: Path, value: float, layer: str = "") -> Any:
    (folder / "layers_of_mine.py").write_text(f"VALUE = 1{layer}\n")
    (folder / "loop_of_mine.py").write_text(
        "import layers_of_mine\n\ndef work(run):\n    run.wrap(layers())\n"
        f"    run.log(1, accuracy={value} * layers_of_mine.VALUE)\n\n"
        "def layers():\n    from torch import nn\n    return nn.Linear(2, 2)\n"
    )
    for name in ("layers_of_mine", "loop_of_mine"):
        sys.modules.pop(name, None)
    importlib.invalidate_caches()
    linecache.clearcache()
    return importlib.import_module("loop_of_mine").work


def test_results_of_other_code_are_refused_with_three_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    out = tmp_path / "out"

    def final(train: Any, **options: Any) -> float:
        (cell,) = compare(train, ("none",), seeds=1, out=out, **options)["cells"]
        return float(cell["arms"]["none"]["final_accuracy"]["mean"])

    assert final(write_loop(tmp_path, 0.5)) == 0.5
    record = json.loads((out / "study.json").read_text())
    assert set(record["code"]) == {"work", "layers", "layers_of_mine"}
    assert final(write_loop(tmp_path, 0.5, layer="  # a comment")) == 0.5
    assert len(json.loads((out / "study.json").read_text())["invocations"]) == 1  # the second call ran nothing
    changed = write_loop(tmp_path, 0.7)
    with pytest.raises(UserError, match=r"results of other code \(work changed\): .*fresh=True.*out=.*keep=True"):
        final(changed)
    assert final(changed, keep=True) == 0.5
    assert json.loads((out / "study.json").read_text())["changed_code"] == ["work"]
    for made in ("by compare", "again, from the folder"):
        for page in ("report.md", "report.html"):
            kept = "of the code as it is now: work changed, and what was there was kept"
            assert kept in (out / page).read_text(), made
        assert report(out)["changed_code"] == ["work"]
    assert final(changed) == 0.5  # what was kept is no longer news
    imported = write_loop(tmp_path, 0.7, layer=" + 0")
    with pytest.raises(UserError, match=r"\(layers_of_mine changed\)"):
        final(imported)
    assert final(imported, fresh=True) == 0.7
    for name in ("layers_of_mine", "loop_of_mine"):
        sys.modules.pop(name, None)
