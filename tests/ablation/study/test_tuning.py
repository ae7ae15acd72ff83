"""Learning rates: chosen by the rule, on runs that end at the target, and kept when the study goes on."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import train
from mireg.ablation import report
from mireg.ablation.arms import Term
from mireg.ablation.errors import UserError
from mireg.ablation.storage.rates import read_tuning
from mireg.ablation.study import presets
from mireg.ablation.study.config import Cell, RunSpec, Study, Tuning
from mireg.ablation.study.tuning import choose
from tests.ablation.running import run

CELL = Cell(
    "tiny",
    "digits",
    "mlp",
    0.5,
    60,
    model_options={"depth": 2, "width": 16},
    batch_size=64,
    eval_every=5,
    tuning_steps=40,
    seeds=2,
)
STUDY = Study("tuned", (CELL,), ("none", "lbe"), first_seed=10, tuning=Tuning((1e-5, 3e-3), seeds=1))


def trial(lr: float, *runs: tuple[int | None, float] | None) -> list[tuple[RunSpec, dict[str, Any] | None]]:
    """Tuning runs that reached the target at a step with an accuracy in the end; None for one that broke."""
    cell = Cell("cell", "digits", "mlp", 0.7, 100, lr=lr)
    found: list[tuple[RunSpec, dict[str, Any] | None]] = []
    for seed, outcome in enumerate(runs):
        step, last = outcome or (None, 0.0)
        curve = [{"step": 0, "validation_accuracy": 0.1}]
        curve.append({"step": 100 if step is None else step, "validation_accuracy": last})
        result = {"failure": None if outcome else "step 3: the task loss is nan", "curve": curve}
        found.append((RunSpec(cell, "mi", seed, Term(), tuning=True), result))
    return found


@pytest.mark.parametrize(
    ("runs", "best"),
    [
        ([*trial(1e-3, (50, 0.7), (75, 0.7)), *trial(3e-3, (50, 0.7), (50, 0.7))], 3e-3),  # fewest steps
        ([*trial(1e-3, (90, 0.7), (90, 0.7)), *trial(3e-3, (10, 0.7), (None, 0.69))], 1e-3),  # a miss is infinite
        ([*trial(1e-3, (None, 0.3), (None, 0.3)), *trial(3e-3, (None, 0.5), (None, 0.2))], 3e-3),  # then accuracy
        ([*trial(3e-3, (50, 0.7), (50, 0.7)), *trial(1e-3, (50, 0.7), (50, 0.7))], 1e-3),  # then the smaller
        ([*trial(1e-3, (None, 0.2), (None, 0.2)), *trial(3e-3, (None, 0.3), None)], 1e-3),  # broken: accuracy 0
        ([*trial(1e-3, None, None), *trial(3e-3, None, (None, 0.1))], 3e-3),
    ],
)
def test_choice(runs: list[Any], best: float) -> None:
    assert choose(runs)["mi"]["lr"] == best


def test_what_was_tried_is_kept() -> None:
    found = choose([*trial(3e-4, (50, 0.75), None)])["mi"]
    assert found["tried"] == {"0.0003": {"steps": [50, None], "accuracy": [0.75, 0.0]}}
    spec, _ = trial(1e-3, None)[0]
    assert choose([(spec, None)])["mi"]["tried"] == {"0.001": {"steps": [None], "accuracy": [0.0]}}


def test_a_tuning_run_ends_at_the_target_and_sees_no_test_set(tmp_path: Path) -> None:
    cell = replace(CELL, lr=3e-3)
    whole = run(tmp_path / "whole", cell, "none")
    result = run(tmp_path / "tuning", cell, "none", tuning=True)
    assert result["test_accuracy"] is None
    assert not (tmp_path / "tuning" / "weights.pt").exists()
    *before, last = [point["validation_accuracy"] for point in result["curve"]]
    assert CELL.target is not None
    assert last >= CELL.target > max(before[1:], default=0)
    assert len(result["curve"]) < len(whole["curve"])
    assert [p["loss"] for p in whole["curve"]][: len(result["curve"])] == [p["loss"] for p in result["curve"]]


def test_seeds_of_tuning_are_not_used_again() -> None:
    with pytest.raises(UserError, match="first_seed=1: keep clear of the seeds that tuning uses"):
        Study("study", (CELL,), ("none",), first_seed=1, tuning=Tuning((1e-3,)))


def test_an_arm_of_a_cell_and_its_number_of_seeds_win() -> None:
    other = Cell("other", "digits", "mlp", 0.5, 60, arms=("none", "mi", "he"))
    study = Study("study", (CELL, other), ("none", "lbe"), seeds=3)
    assert [(spec.cell.name, spec.arm) for spec in study.runs() if spec.seed == 2] == [
        ("other", arm) for arm in ("none", "mi", "he")
    ]
    assert study.all_arms == ("none", "lbe", "mi", "he")


def test_a_single_rate_is_taken_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = replace(CELL, name="given", tuning_lrs=(2e-3,), steps=5, seeds=1)
    study = replace(STUDY, cells=(CELL, given))
    assert [study.is_tuned(cell) for cell in study.cells] == [True, False]
    assert not study.tuning_runs(given)
    assert {spec.lr for spec in replace(study, cells=(given,)).runs()} == {2e-3}
    monkeypatch.setitem(presets.PRESETS, "tuned", study)
    assert train.main(command(tmp_path, "--cells", "given")) == 0
    assert train.main(command(tmp_path, "--cells", "given")) == 0
    assert not (tmp_path / "tuning.json").exists()
    assert not (tmp_path / "tuning").exists()
    assert json.loads((tmp_path / "runs/given/lbe/seed-10/result.json").read_text())["lr"] == 2e-3


@pytest.fixture(scope="module")
def tuned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("tuned")
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(presets.PRESETS, "tuned", STUDY)
        assert train.main(command(out)) == 0
    return out


def command(out: Path, *words: str) -> list[str]:
    return ["--preset", "tuned", "--workers", "1", "--quiet", "--out", str(out), *words]


@pytest.fixture
def preset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(presets.PRESETS, "tuned", STUDY)


@pytest.mark.usefixtures("preset")
class TestStudy:
    def test_runs_of_both_kinds(self, tuned: Path) -> None:
        trials = sorted(str(path.parent.relative_to(tuned)) for path in tuned.glob("tuning/*/*/*/*/result.json"))
        assert trials == [f"tuning/tiny/{arm}/lr-{lr}/seed-0" for arm in ("lbe", "none") for lr in ("0.003", "1e-05")]
        for path in tuned.glob("tuning/*/*/*/*/result.json"):
            assert json.loads(path.read_text())["curve"][-1]["step"] <= 40
        finals = [json.loads(path.read_text()) for path in sorted(tuned.glob("runs/*/*/*/result.json"))]
        assert [(run["arm"], run["seed"], run["lr"]) for run in finals] == [
            (arm, seed, 3e-3) for arm in ("lbe", "none") for seed in (10, 11)
        ]

    def test_the_choice_is_reported(self, tuned: Path) -> None:
        summary = json.loads((tuned / "summary.json").read_text())
        tried = summary["tuning"]["tiny"]["none"]
        assert tried["1e-05"]["steps"] == [None]
        assert tried["0.003"]["steps"][0] in range(5, 41, 5)
        assert summary["cells"][0]["arms"]["none"]["lr"] == 3e-3
        for name in ("report.md", "report.html"):
            assert "How the learning rates were chosen" in (tuned / name).read_text()
        assert read_tuning(tuned)["tiny"]["lbe"]["lr"] == 3e-3

    def test_again_does_what_is_missing(self, tuned: Path) -> None:
        trial, gone = (
            tuned / "tuning/tiny/lbe/lr-0.003/seed-0/result.json",
            tuned / "runs/tiny/none/seed-11/result.json",
        )
        results = {path: path.stat().st_mtime_ns for path in tuned.glob("*/**/result.json")}
        choice = (tuned / "tuning.json").read_bytes()

        def again() -> set[Path]:
            assert train.main(command(tuned)) == 0
            assert (tuned / "tuning.json").read_bytes() == choice
            return {path for path, at in results.items() if not path.exists() or path.stat().st_mtime_ns != at}

        gone.unlink()
        trial.unlink()
        assert again() == {gone, trial}
        assert not trial.exists()  # a rate once chosen stands
        (tuned / "tuning.json").unlink()  # without the record it is chosen again
        assert again() == {gone, trial}
        assert trial.exists()

    def test_killed_in_any_phase_it_goes_on(self, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        whole_build = train.build
        kept: dict[Path, int] = {}
        for passes in (12, 100, 130):  # among the tuning runs, and among the final ones
            left = itertools.count(passes, -1)

            def count(module: nn.Module, arguments: Any, left: Iterator[int] = left) -> None:
                if module.training and next(left) == 0:
                    raise KeyboardInterrupt  # stands for a kill: nothing is saved

            def dying(cell: Cell, dataset: Any, count: Any = count) -> nn.Module:
                network = whole_build(cell, dataset)
                network.register_forward_pre_hook(count)
                return network

            monkeypatch.setattr(train, "build", dying)
            assert train.main(command(tmp_path, "--checkpoint-seconds", "0")) == 130
            assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
            kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/**/result.json")}
        assert {path.relative_to(tmp_path).parts[0] for path in kept} == {"tuning", "runs"}
        monkeypatch.setattr(train, "build", whole_build)
        assert train.main(command(tmp_path)) == 0
        assert all(path.stat().st_mtime_ns == at for path, at in kept.items())
        for path in tuned.glob("runs/*/*/*/weights.pt"):
            assert path.read_bytes() == (tmp_path / path.relative_to(tuned)).read_bytes()
        assert read_tuning(tmp_path) == read_tuning(tuned)

    def test_a_cell_without_all_its_runs_is_reported(self, tuned: Path) -> None:
        path = tuned / "runs/tiny/lbe/seed-11/result.json"
        text = path.read_bytes()
        path.unlink()
        assert report.report(tuned)["cells"][0]["arms"]["lbe"]["n_seeds"] == 1
        path.write_bytes(text)

    @pytest.mark.parametrize(
        ("study", "words", "message"),
        [
            ({"tuning": Tuning((1e-5, 1e-2), seeds=1)}, [], r"lrs: [1e-05, 0.003] → [1e-05, 0.01]"),
            ({}, ["--lr", "0.003"], "lrs: [1e-05, 0.003] → unset"),
            ({}, ["--steps", "30"], "steps.tiny: 40 → 30"),
        ],
    )
    def test_other_tuning_is_refused(
        self,
        tuned: Path,
        monkeypatch: pytest.MonkeyPatch,
        capsys: pytest.CaptureFixture[str],
        study: dict[str, Any],
        words: list[str],
        message: str,
    ) -> None:
        monkeypatch.setitem(presets.PRESETS, "tuned", replace(STUDY, **study))
        assert train.main(command(tuned, *words)) == 2
        assert message in capsys.readouterr().err

    def test_an_arm_may_be_added_to_a_cell_with_rates_of_its_own(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        cell = replace(CELL, steps=5, tuning_steps=5, seeds=1, tuning_lrs=(1e-3, 3e-3))
        monkeypatch.setitem(presets.PRESETS, "tuned", replace(STUDY, cells=(cell,)))
        assert train.main(command(tmp_path, "--arms", "none")) == 0
        assert train.main(command(tmp_path, "--arms", "lbe")) == 0
        assert set(read_tuning(tmp_path)["tiny"]) == {"none", "lbe"}
        cell = replace(cell, tuning_lrs=(1e-3, 1e-2))
        monkeypatch.setitem(presets.PRESETS, "tuned", replace(STUDY, cells=(cell,)))
        assert train.main(command(tmp_path, "--arms", "lbe")) == 2
        assert "lrs_of.tiny.lbe: [0.001, 0.003] → [0.001, 0.01]" in capsys.readouterr().err

    def test_a_given_rate_needs_no_tuning(self, tmp_path: Path) -> None:
        assert train.main(command(tmp_path, "--lr", "0.002", "--seeds", "1", "--steps", "5", "--arms", "none")) == 0
        assert not (tmp_path / "tuning").exists()
        (result,) = [json.loads(path.read_text()) for path in tmp_path.glob("runs/*/*/*/result.json")]
        assert (result["lr"], result["seed"]) == (0.002, 10)

    def test_a_crash_is_no_miss(
        self, tuned: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
    ) -> None:
        whole_build = train.build

        def crashing(cell: Cell, dataset: Any) -> nn.Module:
            if cell.lr == 1e-5 or 1e-5 in cell.arm_lr.values():
                raise RuntimeError("no memory left")
            network: nn.Module = whole_build(cell, dataset)
            return network

        monkeypatch.setattr(train, "build", crashing)
        assert train.main(command(tmp_path)) == 1
        failed = r"failed: tiny/none/seed-\d+: tuning/tiny/none/lr-1e-05/seed-\d+: .*no memory"
        assert re.search(failed, capsys.readouterr().err)
        assert not (tmp_path / "runs").exists()
        assert read_tuning(tmp_path) == {}
        monkeypatch.setattr(train, "build", whole_build)
        assert train.main(command(tmp_path)) == 0
        assert read_tuning(tmp_path) == read_tuning(tuned)

    def test_a_rate_that_breaks_is_a_miss(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        broken = replace(STUDY, tuning=Tuning((1e36, 3e-3), seeds=1), arms=("none",))
        monkeypatch.setitem(presets.PRESETS, "tuned", broken)
        assert train.main(command(tmp_path, "--seeds", "1")) == 0
        assert read_tuning(tmp_path)["tiny"]["none"]["tried"]["1e+36"] == {"steps": [None], "accuracy": [0.0]}


def test_a_cell_and_an_arm_may_have_a_grid_of_their_own() -> None:
    cell = replace(CELL, name="own", tuning_lrs=(0.1, 0.2), arm_tuning_lrs={"muon": (1e-3, 1e-2)})
    study = replace(STUDY, cells=(CELL, cell), arms=("none", "muon"))
    tried = {
        (spec.cell.name, spec.arm): study.lrs_of(spec.cell, spec.arm)
        for cell in study.cells
        for spec in study.tuning_runs(cell)
    }
    assert tried == {
        ("tiny", "none"): (1e-5, 3e-3),
        ("tiny", "muon"): (1e-5, 3e-3),
        ("own", "none"): (0.1, 0.2),
        ("own", "muon"): (1e-3, 1e-2),
    }
    assert len({spec.path for spec in study.tuning_runs(cell)}) == 4


def test_every_arm_is_tuned_over_as_many_rates() -> None:
    cell = replace(CELL, arm_tuning_lrs={"lbe": (1e-3,)})
    with pytest.raises(UserError, match=r"arm_tuning_lrs of lbe=\(0.001,\): give 2, as other arms have"):
        replace(STUDY, cells=(cell,))
