"""The command line: the demo in small, and every bad request in one line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
import tomllib
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from mireg.ablation.command.arguments import parse
from mireg.ablation.command.request import chosen_study
from mireg.ablation.data import load
from mireg.ablation.study.config import Cell, Study

ROOT = Path(__file__).parents[1]
SMALL = ["--seeds", "2", "--steps", "60", "--eval-every", "20", "--arms", "none", "mi", "target-shuffled"]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("demo")
    done = run("--out", str(out), "--workers", "2", *SMALL)
    assert done.returncode == 0, done.stderr
    assert f"report:      {out / 'report.html'}" in done.stdout
    assert f"tensorboard --logdir {out / 'runs'}" in done.stdout
    return out


class TestDemo:
    def test_summary_follows_the_schema(self, demo: Path) -> None:
        summary = json.loads((demo / "summary.json").read_text())
        assert summary["study"] == "demo"
        (cell,) = summary["cells"]
        assert cell["cell"] == "lenet"
        assert (cell["target"], cell["budget_steps"]) == (0.6, 60)
        assert list(cell["arms"]) == ["none", "mi", "target-shuffled"]
        for name, arm in cell["arms"].items():
            assert arm["n_seeds"] == 2
            assert 0 <= arm["n_reached"] <= 2
            for times in (arm["steps_to_target"], arm["seconds_to_target"]):
                assert len(times["values"]) == 2
                assert sum(value is not None for value in times["values"]) == arm["n_reached"]
            low, high = arm["final_accuracy"]["ci95"]
            assert low <= arm["final_accuracy"]["mean"] <= high
            assert arm["lr"] > 0
            assert ("vs_none" in arm) == (name != "none")
            if name != "none":
                assert {"steps_ratio", "ci95", "p_value", "seconds_ratio"} <= set(arm["vs_none"])

    def test_arms_are_paired(self, demo: Path) -> None:
        """The same seed starts from the same weights: one accuracy before the first step, another seed another."""
        first = {
            path.parts[-3:-1]: json.loads(path.read_text())["curve"][0]
            for path in demo.glob("runs/lenet/*/*/result.json")
        }
        assert len(first) == 6
        for seed in ("seed-0", "seed-1"):
            assert len({json.dumps(p["mi"]) for (_, s), p in first.items() if s == seed}) == 1
        assert len({json.dumps(p["mi"]) for p in first.values()}) == 2

    def test_curves_in_tensorboard(self, demo: Path) -> None:
        tags = {}
        for folder in sorted(demo.glob("runs/lenet/*/seed-0")):
            events = EventAccumulator(str(folder))
            events.Reload()
            tags[folder.parent.name] = set(events.Tags()["scalars"])
            assert [e.step for e in events.Scalars("validation/accuracy")] == [0, 20, 40, 60]
            pairs = sorted(tag for tag in tags[folder.parent.name] if tag.startswith("mi_nats/"))
            links = [pair.removeprefix(f"mi_nats/{i:03}_").split("→") for i, pair in enumerate(pairs)]
            assert links[0][0] == "input"
            assert all(a[1] == b[0] for a, b in pairwise(links))
            assert all(e.value <= math.log(128) for pair in pairs for e in events.Scalars(pair))
        rewarded = {tag for tag in tags["mi"] if tag.startswith("rewarded/")}
        assert any(tag.endswith("→target") for tag in rewarded)
        assert tags["mi"] == tags["target-shuffled"] == tags["none"] | rewarded | {"term/share_of_loss"}

    def test_report(self, demo: Path) -> None:
        page = (demo / "report.html").read_text()
        assert "60%" in page
        for nothing_from_elsewhere in ('src="http', 'href="http', "url(http", "@import"):
            assert nothing_from_elsewhere not in page
        pictures = list((demo / "figures").glob("*.png"))
        assert pictures
        assert all(path.stat().st_size > 5_000 for path in pictures)

    def test_again_continues(self, demo: Path) -> None:
        results = {path: path.stat().st_mtime_ns for path in demo.glob("runs/*/*/*/result.json")}
        gone = next(iter(results))
        old = json.loads(gone.read_text())
        gone.unlink()
        done = run("--out", str(demo), *SMALL)
        assert done.returncode == 0, done.stderr
        assert all(path.stat().st_mtime_ns == at for path, at in results.items() if path != gone)
        again = json.loads(gone.read_text())
        assert again["test_accuracy"] == old["test_accuracy"]
        assert [p["loss"] for p in again["curve"]] == [p["loss"] for p in old["curve"]]

    def test_other_settings_in_the_same_folder_are_refused(self, demo: Path) -> None:
        refused(["--out", str(demo), *SMALL, "--batch-size", "32"], "other settings (cell.batch_size: 64 → 32)")

    def test_report_again(self, demo: Path) -> None:
        before = (demo / "summary.json").read_bytes()
        (demo / "summary.json").unlink()
        subprocess.run([sys.executable, "-m", "eval.report", str(demo)], cwd=ROOT, check=True, capture_output=True)
        assert (demo / "summary.json").read_bytes() == before


def refused(arguments: list[str], *parts: str) -> None:
    """Exit status 2 and one line on standard error, which holds all of the parts; an exception fails the test."""
    error = io.StringIO()
    with contextlib.redirect_stderr(error):
        assert train.main(arguments) == 2
    (line,) = error.getvalue().strip().splitlines()
    for part in parts:
        assert part in line


class TestRefusals:
    def test_preset(self) -> None:
        refused(["--preset", "dmeo"], "unknown preset 'dmeo'", "convergence")

    def test_as_a_program(self) -> None:
        done = run("--preset", "dmeo")
        assert done.returncode == 2
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr

    def test_arm(self, tmp_path: Path) -> None:
        refused(["--arms", "none", "magic", "--out", str(tmp_path)], "unknown arm 'magic'", "mi-binning")

    def test_cell(self, tmp_path: Path) -> None:
        words = ["--preset", "convergence", "--cells", "R1", "R33", "--out", str(tmp_path / "out")]
        refused(words, "unknown cell 'R33' (did you mean R3?)", "R1, R2")
        assert not (tmp_path / "out").exists()

    def test_arm_that_does_not_apply(self, tmp_path: Path) -> None:
        words = ["--preset", "convergence", "--cells", "H6", "--arms", "none", "he", "--out", str(tmp_path / "out")]
        refused(words, "H6: arm 'he' does not apply, model 'vit' has no 'init'")
        assert not (tmp_path / "out").exists()

    def test_dataset(self, tmp_path: Path) -> None:
        refused(["--dataset", "imagenet", "--out", str(tmp_path)], "'imagenet'", "fashion-mnist")

    def test_model_option(self, tmp_path: Path) -> None:
        refused(["--model-options", "deepth=3", "--out", str(tmp_path)], "no option 'deepth'", "activation")

    def test_missing_data_without_a_network(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("https_proxy", "http_proxy"):
            monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv("no_proxy", "")
        arguments = ["--dataset", "mnist", "--data-dir", str(tmp_path / "data"), "--out", str(tmp_path)]
        refused(arguments, "dataset 'mnist'", "could not be downloaded", "--data-dir")

    def test_unwritable_folder(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        refused(["--out", str(tmp_path / "file" / "out")], "cannot write", "file/out")

    def test_layers(self, tmp_path: Path) -> None:
        refused(["--layers", "block*", "--out", str(tmp_path)], "'block*'", "matches no module", "layers.0")

    def test_batch_of_one(self, tmp_path: Path) -> None:
        refused(["--batch-size", "1", "--out", str(tmp_path)], "batch_size=1", "at least 2")


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main(["--list"]) == 0
    listed = capsys.readouterr().out
    for name in ("demo", "cifar10", "cnn", "target-shuffled", "binning", "convergence", "last-layer"):
        assert name in listed
    assert "no term: BatchNorm in every layer" in listed


class TestChosen:
    def study(self, *words: str) -> Study:
        return chosen_study(parse(["--preset", "convergence", *words], "train.py"), train.catalogue())

    def test_cells_in_the_order_given(self, tmp_path: Path) -> None:
        assert [cell.name for cell in self.study("--cells", "R3", "H7").cells] == ["R3", "H7"]
        path = tmp_path / "study.toml"
        path.write_text('cells = ["R6"]\n')
        assert [cell.name for cell in self.study("--config", str(path)).cells] == ["R6"]
        assert [cell.name for cell in self.study("--config", str(path), "--cells", "R1").cells] == ["R1"]

    def test_a_cell_brings_the_other_budgets_of_its_baseline(self) -> None:
        study = self.study("--cells", "P4", "--arms", "none", "mi", "--steps", "200", "--warmup-steps", "20")
        assert [(cell.name, cell.steps, cell.warmup_steps) for cell in study.cells] == [
            ("P4", 200, 20),
            ("P4-60", 120, 12),
            ("P4-80", 160, 16),
        ]
        assert [study.arms_of(cell) for cell in study.cells] == [("none", "mi"), ("none",), ("none",)]

    def test_arms_without_the_baseline_need_no_other_budgets_of_it(self) -> None:
        assert [cell.name for cell in self.study("--cells", "P4", "--arms", "target-shuffled").cells] == ["P4"]

    def test_a_shorter_schedule_by_itself_has_the_arms_asked_for(self) -> None:
        study = self.study("--cells", "P4-60", "--arms", "mi")
        assert [(cell.name, study.arms_of(cell)) for cell in study.cells] == [("P4-60", ("mi",))]

    def test_arms_and_seeds_are_the_cells_own_unless_given(self) -> None:
        study = self.study("--cells", "R3", "R6")
        assert [len(study.arms_of(cell)) for cell in study.cells] == [17, 7]
        assert [study.seeds_of(cell) for cell in study.cells] == [10, 5]
        study = self.study("--cells", "R3", "R6", "--arms", "none", "mi", "--seeds", "3")
        assert {study.arms_of(cell) for cell in study.cells} == {("none", "mi")}
        assert list(study.seed_numbers) == [100, 101, 102]
        assert len(study.runs()) == 2 * 2 * 3

    def test_a_given_rate_is_not_tuned(self) -> None:
        assert self.study("--cells", "R3").tuning is not None
        assert self.study("--cells", "R3", "--lr", "0.01").tuning is None


class TestOwnCell:
    def study(self, *argv: str) -> Study:
        return chosen_study(parse(argv, "train.py"), train.catalogue())

    def test_it_inherits_nothing_from_a_preset(self) -> None:
        study = self.study("--model", "mlp")
        (cell,) = study.cells
        assert (study.name, study.arms, study.seeds, study.tuning) == ("digits-mlp", ("none", "mi"), 6, None)
        assert cell == Cell("digits-mlp", "digits", "mlp", None, 1000)
        assert (cell.lr, cell.batch_size, cell.optimizer, dict(cell.model_options)) == (1e-3, 128, "adam", {})

    def test_what_is_given_is_taken(self) -> None:
        recipe = {"optimizer": "muon", "schedule": "cosine", "augment": "flip-crop", "precision": "bfloat16"}
        numbers = {"lr": 0.02, "warmup_steps": 5, "weight_decay": 0.1, "momentum": 0.8, "target": 0.7, "steps": 50}
        options = {**recipe, **numbers, "metric": "accuracy"}
        argv = [word for key, value in options.items() for word in (f"--{key.replace('_', '-')}", str(value))]
        study = self.study("--model", "cnn", "--model-options", "depth=2", *argv, "--compile", "--arms", "mi")
        (cell,) = study.cells
        assert {key: getattr(cell, key) for key in options} == options
        assert (cell.compile, study.arms, cell.model_options) == (True, ("mi",), {"depth": "2"})

    def test_text_is_read_by_a_gpt_and_judged_by_its_loss(self, tmp_path: Path) -> None:
        path = tmp_path / "emma.txt"
        path.write_text("To be or not to be. " * 50)
        study = self.study("--dataset", f"text:{path}", "--model-options", "context=16")
        (cell,) = study.cells
        assert (cell.name, cell.model, cell.metric, cell.context) == ("emma-gpt", "gpt", "loss", 16)

    @pytest.mark.parametrize(
        ("argv", "parts"),
        [
            (["--preset", "demo", "--model", "mlp"], ["--preset demo does not go with --dataset, --model or --task"]),
            (["--dataset", "digits", "--weight", "nan"], ["weight=nan: give at least 0, a finite number"]),
            (
                ["--preset", "demo", "--task", "regression"],
                ["--preset demo does not go with --dataset, --model or --task"],
            ),
            (["--cells", "R1", "--model", "mlp"], ["--cells does not go with --dataset or --model"]),
            (["--model", "mpl"], ["unknown model 'mpl' (did you mean mlp?)", "gpt", "timm:NAME"]),
            (["--model", "timm:resnet_18"], ["timm has no model 'resnet_18' (did you mean resnet18?)"]),
            (["--model", "torchvision:resnet_18"], ["torchvision has no model 'resnet_18' (did you mean resnet18?)"]),
            (["--model", "torchvision:resnet18"], ["digits-torchvision-resnet18, arm none: ", "to have 3 channels"]),
            (["--model", "nowhere:net"], ["nowhere:net: no module 'nowhere' in the current folder"]),
            (["--model", "mlp", "--metric", "auc"], ["metric='auc': choose from accuracy, loss"]),
            (["--model", "gpt"], ["digits-gpt, arm none: a gpt needs samples of shape (tokens,), not (1, 8, 8)"]),
            (["--dataset", "text:nowhere.txt"], ["cannot read nowhere.txt (No such file or directory)"]),
            (["--dataset", "folder:nowhere"], ["cannot read nowhere: no such folder"]),
            (["--model", "mlp", "--target", "1.5"], ["goal=1.5: give an accuracy above 0 and at most 1"]),
            (["--model", "mlp", "--target", "0.01"], ["the untrained network is at accuracy", "give a higher one"]),
            (["--model", "mlp", "--metric", "loss", "--target", "-1"], ["goal=-1.0: give a loss above 0"]),
            (["--model", "mlp", "--metric", "loss", "--target", "90"], ["is at loss", "give a lower one"]),
            (["--model", "mlp", "--steps", "many"], ["train.py: --steps: 'many' must be a whole number"]),
        ],
    )
    def test_refused_before_any_training(self, tmp_path: Path, argv: list[str], parts: list[str]) -> None:
        refused([*argv, "--out", str(tmp_path / "out")], *parts)
        assert not (tmp_path / "out").exists()

    def test_printed_settings_are_all_there_and_read_back(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert train.main(["--model", "cnn", "--lr", "0.01", "--print-config"]) == 0
        text = capsys.readouterr().out
        printed = tomllib.loads(text)
        assert printed["out"] == "out/digits-cnn"
        assert printed["dataset"] == "digits"
        assert "depth=14" in printed["model-options"]
        assert (printed["lr"], printed["batch-size"], printed["seeds"]) == (0.01, 128, 6)
        assert (printed["optimizer"], printed["schedule"], printed["compile"]) == ("adam", "constant", False)
        path = tmp_path / "study.toml"
        path.write_text(text)
        again, before = self.study("--config", str(path)), self.study("--model", "cnn", "--lr", "0.01")
        assert replace(again.cells[0], model_options={}) == before.cells[0]
        assert (again.arms, again.seeds, again.term) == (before.arms, before.seeds, before.term)
        assert train.main(["--config", str(path), "--print-config"]) == 0
        assert tomllib.loads(capsys.readouterr().out) == printed

    def test_settings_of_a_preset_are_shown_cell_by_cell(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert train.main(["--steps", "50", "--print-config"]) == 0
        text = capsys.readouterr().out
        assert tomllib.loads(text)["steps"] == 50
        (comment,) = [line for line in text.splitlines() if line.startswith("#")]
        for part in (
            "lenet: dataset=digits model=lenet",
            "optimizer=sgd",
            "lr=0.1",
            "goal=0.6",
        ):
            assert part in comment


FILES = """
import torch
from torch import nn

def load():
    x = torch.randn(200, 6, generator=torch.Generator().manual_seed(0))
    return (x[:150], x[:150, 0] * x[:150, 1]), (x[150:], x[150:, 0] * x[150:, 1])

class Net(nn.Module):
    def __init__(self, input_shape, outputs, depth=2):
        super().__init__()
        sizes = [*input_shape, *[16] * depth]
        pairs = zip(sizes, sizes[1:])
        self.layers = nn.Sequential(*(nn.Sequential(nn.Linear(a, b), nn.Tanh()) for a, b in pairs))
        self.head = nn.Linear(16, outputs)

    def forward(self, x):
        return self.head(self.layers(x))

def broken(outputs):
    return nn.Linear(5, outputs)

def wrong(input_shape):
    return nn.Linear(*input_shape, 3)

def leaves():
    raise SystemExit(3)

class Frozen(Net):
    def __init__(self, input_shape, outputs):
        super().__init__(input_shape, outputs)
        self.requires_grad_(False)

class TwoHeads(Net):
    # in training mode alone, as some networks of torchvision
    def forward(self, x):
        y = super().forward(x)
        return (y, y) if self.training else y
"""


def test_own_network_and_data_from_the_current_folder(tmp_path: Path) -> None:
    """In worker processes, which import both by name."""
    (tmp_path / "lab.py").write_text(FILES)
    command = [
        sys.executable,
        str(ROOT / "train.py"),
        "--dataset",
        "lab:load",
        "--model",
        "lab:Net",
        "--arms",
        "none",
        "mi",
    ]
    small = ["--model-options", "depth=3", "--seeds", "2", "--steps", "20", "--eval-every", "10", "--workers", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    options: dict[str, Any] = {
        "cwd": tmp_path,
        "env": environment,
        "capture_output": True,
        "text": True,
        "check": False,
    }
    done = subprocess.run([*command, *small], timeout=240, **options)
    assert done.returncode == 0, done.stderr
    summary = json.loads((tmp_path / "out" / "lab-load-lab-Net" / "summary.json").read_text())
    (cell,) = summary["cells"]
    assert (summary["schema_version"], summary["study"]) == (1, "lab-load-lab-Net")
    assert (cell["metric"], cell["mode"], cell["target"], cell["budget_steps"]) == ("loss", "min", None, 20)
    assert cell["final_split"] == "validation"
    for arm in cell["arms"].values():
        low, high = arm["final_metric"]["ci95"]
        assert low <= arm["final_metric"]["mean"] <= high
        assert arm["steps_to_target"] == {"median": None, "values": [None, None]}
    assert "mi ended at" in done.stdout.replace("\n", " ")


@pytest.mark.parametrize(
    ("model", "message"),
    [
        ("lab:broken", "lab-load-lab-broken, arm none: mat1 and mat2 shapes cannot be multiplied"),
        ("lab:wrong", "the network returns (8, 3) for 8 samples: regression here needs (8, 1)"),
        ("lab:load", "lab:load returned tuple instead of an nn.Module"),
        ("lab:Nett", "has no 'Nett'"),
        ("lab:leaves", "lab-load-lab-leaves, arm none: SystemExit: 3 ("),
        ("lab:Frozen", "the network has nothing to train: none of its parameters takes a gradient"),
        ("lab:TwoHeads", "the network returns a tuple: regression needs a tensor (8, 1)"),
    ],
)
def test_own_network_of_the_wrong_shape(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, model: str, message: str
) -> None:
    (tmp_path / "lab.py").write_text(FILES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    load.cache_clear()
    try:
        refused(["--dataset", "lab:load", "--model", model], message)
    finally:
        sys.modules.pop("lab", None)
        load.cache_clear()
    assert not (tmp_path / "out").exists()
