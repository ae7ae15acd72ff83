"""The command line: the demo in small, and every bad request in one line."""

from __future__ import annotations

import contextlib
import io
import json
import math
import os
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import train
from mireg.ablation.config import Study

ROOT = Path(__file__).parents[1]
SMALL = ["--seeds", "2", "--steps", "60", "--eval-every", "20", "--model-options", "depth=8", "width=16"]


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
        assert cell["cell"] == "digits-sigmoid"
        assert (cell["target"], cell["budget_steps"]) == (0.8, 60)
        assert list(cell["arms"]) == ["none", "mi-kde", "mi-binning"]
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
            for path in demo.glob("runs/digits-sigmoid/*/*/result.json")
        }
        assert len(first) == 6
        for seed in ("seed-0", "seed-1"):
            assert len({json.dumps(p["mi"]) for (_, s), p in first.items() if s == seed}) == 1
        assert len({json.dumps(p["mi"]) for p in first.values()}) == 2

    def test_curves_in_tensorboard(self, demo: Path) -> None:
        tags = {}
        for folder in sorted(demo.glob("runs/digits-sigmoid/*/seed-0")):
            events = EventAccumulator(str(folder))
            events.Reload()
            tags[folder.parent.name] = set(events.Tags()["scalars"])
            assert [e.step for e in events.Scalars("validation/accuracy")] == [0, 20, 40, 60]
            pairs = sorted(tag for tag in tags[folder.parent.name] if tag.startswith("mi_nats/"))
            links = pairwise(["input", *(f"layers.{i}" for i in range(8))])
            assert pairs == [f"mi_nats/{i:03}_{a}→{b}" for i, (a, b) in enumerate(links)]
            assert all(0 <= e.value <= math.log(128) for pair in pairs for e in events.Scalars(pair))
        assert tags["mi-kde"] == tags["mi-binning"] == tags["none"] | {"term/share_of_loss"}

    def test_report(self, demo: Path) -> None:
        page = (demo / "report.html").read_text()
        assert "mi-kde reached 80% on" in page
        for nothing_from_elsewhere in ('src="http', 'href="http', "url(http", "@import"):
            assert nothing_from_elsewhere not in page
        assert (demo / "curves.png").stat().st_size > 10_000

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
        refused(["--preset", "dmeo"], "unknown preset 'dmeo'", "fashion-sigmoid10")

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
        refused(["--model-options", "deepth=3", "--out", str(tmp_path)], "no option 'deepth'", "depth")

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
    for name in ("fashion-sigmoid10", "cifar10", "cnn", "mi-shuffled", "binning", "convergence", "variance-only"):
        assert name in listed
    assert "no term: BatchNorm in every layer" in listed


class TestChosen:
    def study(self, *words: str) -> Study:
        return train.chosen_study(train.parse(["--preset", "convergence", *words]))

    def test_cells_in_the_order_given(self, tmp_path: Path) -> None:
        assert [cell.name for cell in self.study("--cells", "R3", "H7").cells] == ["R3", "H7"]
        path = tmp_path / "study.toml"
        path.write_text('cells = ["R6"]\n')
        assert [cell.name for cell in self.study("--config", str(path)).cells] == ["R6"]
        assert [cell.name for cell in self.study("--config", str(path), "--cells", "R1").cells] == ["R1"]

    def test_arms_and_seeds_are_the_cells_own_unless_given(self) -> None:
        study = self.study("--cells", "R3", "R6")
        assert [len(study.arms_of(cell)) for cell in study.cells] == [14, 5]
        assert [study.seeds_of(cell) for cell in study.cells] == [10, 5]
        study = self.study("--cells", "R3", "R6", "--arms", "none", "mi", "--seeds", "3")
        assert {study.arms_of(cell) for cell in study.cells} == {("none", "mi")}
        assert list(study.seed_numbers) == [100, 101, 102]
        assert len(study.runs()) == 2 * 2 * 3

    def test_a_given_rate_is_not_tuned(self) -> None:
        assert self.study("--cells", "R3").tuning is not None
        assert self.study("--cells", "R3", "--lr", "0.01").tuning is None

    def test_a_network_of_ones_own(self) -> None:
        study = self.study("--model", "vit", "--arms", "none", "mi")
        assert study.runs()[0].cell.name == "fashion-mnist-vit"
