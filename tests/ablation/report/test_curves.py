"""Curves from anywhere: the same report as for own runs, or one line that says what is missing."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

import mireg.ablation
from eval import report as module
from mireg.ablation.command import main
from mireg.ablation.errors import UserError
from mireg.ablation.report.curves import as_curves, read_curves
from mireg.ablation.report.sources import report
from tests.ablation.report.synthetic import TARGET, result, write_study

Rows = list[dict[str, Any]]


@pytest.fixture
def runs() -> Rows:
    """Runs of two cells, one of which broke."""
    found = [
        result(arm, seed, None if reached is None else reached + 25 * seed, cell=cell)
        for cell in ("R1", "R2")
        for arm, reached in (("none", None), ("mi", 100), ("he", 700))
        for seed in range(6)
    ]
    broke = found[-1]
    broke |= {"failure": "step 500", "curve": broke["curve"][:20], "seconds": broke["curve"][19]["seconds"]}
    return found


@pytest.fixture
def rows() -> Rows:
    """Curves of two optimizers, the second twice as fast."""
    return [
        {
            "study": "s",
            "arm": arm,
            "seed": seed,
            "step": step,
            "f1": min(1.0, step * speed / 1000),
            "seconds": step / 10,
        }
        for arm, speed in (("adam", 1), ("lion", 2))
        for seed in range(6)
        for step in range(0, 1001, 100)
    ]


def written(folder: Path, rows: Rows) -> str:
    path = folder / "curves.csv"
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return str(path)


def test_the_csv_of_finished_runs_gives_the_report_of_the_runs(runs: Rows, tmp_path: Path) -> None:
    write_study(tmp_path / "study", runs)
    own = report(tmp_path / "study")
    again = report(tmp_path / "study" / "curves.csv", goal=TARGET, out=tmp_path / "again")
    tables = [(tmp_path / folder / "report.md").read_text().splitlines() for folder in ("study", "again")]
    assert again == json.loads((tmp_path / "again" / "summary.json").read_text())
    for one, other in zip(own["cells"], again["cells"], strict=True):
        assert (one["cell"], one["budget_steps"], list(one["arms"])) == (
            other["cell"],
            other["budget_steps"],
            list(other["arms"]),
        )
        for name, arm in one["arms"].items():
            assert {**arm, "lr": None} == other["arms"][name]
    assert [line for line in tables[0] if "mi reached" in line] == [line for line in tables[1] if "mi reached" in line]


def test_records_frames_and_files_are_the_same(rows: Rows, tmp_path: Path) -> None:
    class Frame:
        def to_dict(self, orient: str) -> Rows:
            assert orient == "records"
            return [*rows, {**rows[-1], "step": 1100, "f1": float("nan")}]  # a frame's empty cell

    sources = (rows, Frame(), written(tmp_path, rows))
    summaries = [report(s, baseline="adam", goal=0.5, out=tmp_path / str(i)) for i, s in enumerate(sources)]
    assert summaries[0] == summaries[1]
    assert summaries[0]["cells"] == summaries[2]["cells"]
    versus = summaries[0]["cells"][0]["arms"]["lion"]["vs_none"]
    assert (versus["steps_ratio"], versus["seconds_ratio"]) == (5 / 3, 5 / 3)
    assert versus["p_value"] == pytest.approx(2 / 2**6)


def test_seconds_may_be_left_out(rows: Rows, tmp_path: Path) -> None:
    for row in rows:
        del row["seconds"]
    (cell,) = report(rows, baseline="adam", goal=0.5, out=tmp_path)["cells"]
    lion = cell["arms"]["lion"]
    assert lion["vs_none"]["steps_ratio"] == 5 / 3
    assert (lion["vs_none"]["seconds_ratio"], lion["equal_time"]["mean"], lion["step_ms"]) == (None, None, None)
    assert "seconds" not in (tmp_path / "report.md").read_text()


def test_a_lower_error_is_better_unless_the_mode_says_otherwise() -> None:
    rows = [{"study": "s", "arm": "a", "seed": 0, "step": 10, "val_loss": 2.0}]
    assert read_curves(rows, None, None, 3.0)[0]["spec"]["cell"]["mode"] == "min"
    assert read_curves(rows, None, "max", 3.0)[0]["spec"]["cell"]["mode"] == "max"
    renamed = [{**row, "gloss": 1.0} for row in rows]
    assert read_curves(renamed, "gloss", None, None)[0]["spec"]["cell"]["mode"] == "max"


def test_a_run_that_is_not_finite_broke_there() -> None:
    head = {"study": "s", "arm": "a", "seed": 0}
    rows = [{**head, "step": step, "accuracy": value} for step, value in ((1, "0.5"), (2, ""), (3, "nan"), (4, "0.9"))]
    (run,) = read_curves(rows, None, None, None)
    assert run["failure"] == "accuracy is not finite"
    assert [point["step"] for point in run["curve"]] == [1]
    assert "s,a,0,2,nan" in as_curves([run])


@pytest.fixture
def asked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def ask(rows: Rows, *words: str) -> str:
        path = written(tmp_path, rows)
        assert main(["report", path, "--out", str(tmp_path / "out"), *(words or ("--baseline", "adam"))]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert not (tmp_path / "out").exists()
        return str(line)

    return ask


@pytest.mark.parametrize("column", ["study", "arm", "seed", "step"])
def test_a_missing_column_is_named(asked: Any, rows: Rows, column: str) -> None:
    line = asked([{key: value for key, value in row.items() if key != column} for row in rows])
    assert f"column {column!r} is missing among" in line
    assert ": add it, " in line


def test_what_cannot_be_compared_is_named(asked: Any, rows: Rows) -> None:
    alone = [row for row in rows if (row["arm"], row["seed"]) != ("lion", 3)]
    assert "study s: of arm adam, seed 3 has no partner in arm lion: add its curve" in asked(alone)
    assert "no arm is the baseline 'adma' (did you mean adam?): choose --baseline from adam, lion" in asked(
        rows, "--baseline", "adma"
    )
    assert "no arm is the baseline 'none': choose" in asked(rows, "--goal", "1")
    assert "no column with a metric, only study" in asked([{k: v for k, v in r.items() if k != "f1"} for r in rows])
    assert "has several columns: choose --metric from f1, f2" in asked([{**row, "f2": 1} for row in rows])
    assert "no column 'f3'" in asked(rows, "--metric", "f3")
    assert "line 2: seed is 'x': give a number" in asked([{**row, "seed": "x"} for row in rows])
    assert "two rows of step 0: give each run a seed of its own" in asked([*rows, *rows])
    percent = [
        {"accuracy" if key == "f1" else key: 100 * v if key == "f1" else v for key, v in r.items()} for r in rows
    ]
    assert "an accuracy of 10 is above 1: divide it by 100" in asked(percent)


def test_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["report", str(tmp_path / "no.csv")]) == 2
    assert "no.csv (No such file or directory): give a CSV file" in capsys.readouterr().err


@pytest.fixture
def board(tmp_path: Path) -> Path:
    """TensorBoard runs of two arms, in folders ARM/seed-N and ARM_N."""
    for arm, speed in (("adam", 1), ("lion", 2)):
        for seed in range(3):
            folder = tmp_path / "board" / (f"{arm}/seed-{seed}" if arm == "adam" else f"{arm}_{seed}")
            with SummaryWriter(str(folder)) as writer:
                for step in range(0, 1001, 100):
                    writer.add_scalar("val/acc", min(1.0, step * speed / 1000), step)
                    writer.add_scalar("train/loss", 1.0, step)
    return tmp_path / "board"


def test_tensorboard_runs(board: Path, tmp_path: Path) -> None:
    (cell,) = report(board, baseline="adam", goal=0.6, metric="acc", out=tmp_path)["cells"]
    assert (cell["cell"], cell["metric"], list(cell["arms"])) == ("board", "acc", ["adam", "lion"])
    assert cell["arms"]["lion"]["vs_none"]["steps_ratio"] == 2
    with pytest.raises(UserError, match=r"several tags: name one with --metric from val/acc, train/loss"):
        report(board, baseline="adam")
    (board / "strange").mkdir()
    with SummaryWriter(str(board / "strange")) as writer:
        writer.add_scalar("val/acc", 1.0, 1)
    with pytest.raises(UserError, match=r"strange: no arm and seed in its name: call the folder of a run ARM/seed-N"):
        report(board, baseline="adam", metric="acc")


def test_two_studies_side_by_side(rows: Rows, tmp_path: Path) -> None:
    faster = [{**row, "f1": min(1.0, 2 * row["f1"])} for row in rows]
    (tmp_path / "new").mkdir()
    paths = written(tmp_path, rows), written(tmp_path / "new", faster)
    renamed = Path(paths[1]).rename(tmp_path / "new" / "new.csv")
    assert main(["report", paths[0], str(renamed), "--baseline", "adam", "--goal", "0.8", "--out", str(tmp_path)]) == 0
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert [cell["cell"] for cell in summary["cells"]] == ["curves/s", "new/s"]
    ratios = {row["arm"]: row["steps_ratio"] for row in summary["side_by_side"]}
    assert ratios == {"adam": 2, "lion": 2}
    assert "| new | s | adam | 2.0x [2.0, 2.0] | 0.031 |" in (tmp_path / "report.md").read_text()


def test_another_goal_and_baseline_for_a_study(runs: Rows, tmp_path: Path) -> None:
    write_study(tmp_path / "study", runs)
    cell = report(tmp_path / "study", goal=0.05, baseline="mi", out=tmp_path / "out")["cells"][0]
    assert (cell["target"], cell["baseline"], next(iter(cell["arms"]))) == (0.05, "mi", "mi")
    assert cell["arms"]["none"]["vs_none"]["steps_ratio"] == 1
    with pytest.raises(UserError, match="--metric loss: the runs of R1 have metric accuracy"):
        report(tmp_path / "study", metric="loss")


def test_the_report_is_callable_from_the_face_of_the_package() -> None:
    face: Any = mireg.ablation.report
    with pytest.raises(UserError, match="no curves to report on"):
        face()
    assert callable(face.write)


def test_the_module_takes_the_same_options(
    rows: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [written(tmp_path, rows), "--baseline", "adam", "--goal", "0.5", "--out", str(tmp_path / "out")]
    monkeypatch.setattr("sys.argv", ["eval.report", *words])
    assert module.main() == 0
    assert "lion reached 0.5 on 6 of 6 seeds" in " ".join(capsys.readouterr().out.split())
    page = (tmp_path / "out" / "report.html").read_text()
    assert "mireg report" in page
    assert "python -m eval" not in page
    assert np.isclose(json.loads((tmp_path / "out" / "summary.json").read_text())["cells"][0]["target"], 0.5)
