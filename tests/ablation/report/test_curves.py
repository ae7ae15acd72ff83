"""Curves from anywhere: the same report as for own runs, or one line that says what is missing."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torch.utils.tensorboard import SummaryWriter

import mireg.ablation
from eval import report as module
from mireg.ablation.command import main
from mireg.ablation.errors import UserError
from mireg.ablation.report.curves import RUN_NAME, as_curves, read_curves
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
    out = tmp_path / "both"
    words = ["--baseline", "adam", "--goal", "0.8", "--out", str(out)]
    assert main(["report", paths[0], str(renamed), *words]) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert [cell["cell"] for cell in summary["cells"]] == ["curves/s", "new/s"]
    ratios = {row["arm"]: row["steps_ratio"] for row in summary["side_by_side"]}
    assert ratios == {"adam": 2, "lion": 2}
    assert "| new | s | adam | 2.0x [2.0, 2.0] | 0.031 |" in (out / "report.md").read_text()


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
    assert callable(face.show)


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


@pytest.mark.parametrize(
    ("broken", "seconds", "ratio"),
    [
        ([("lion", 2)], 1.0, 5 / 3),
        ([("lion", 2)], None, 5 / 3),
        ([("lion", seed) for seed in range(6)], None, 0.5),  # a bound
        ([(arm, seed) for seed in range(6) for arm in ("adam", "lion")], None, None),
    ],
)
def test_runs_that_broke_at_once_are_reported(
    rows: Rows, tmp_path: Path, broken: list[tuple[str, int]], seconds: float | None, ratio: float | None
) -> None:
    kept = [row for row in rows if (row["arm"], row["seed"]) not in broken]
    for arm, seed in broken:
        kept.append({"study": "s", "arm": arm, "seed": seed, "step": 10, "f1": "nan", "seconds": seconds})
    (cell,) = report(kept, baseline="adam", goal=0.5, out=tmp_path)["cells"]
    arms = cell["arms"].values()
    assert sum(arm["n_failed"] for arm in arms) == 12 - sum(arm["n_reached"] for arm in arms) == len(broken)
    assert cell["arms"]["lion"]["vs_none"]["seconds_ratio"] == ratio


@pytest.mark.parametrize("name", ["curves.csv", "runs.csv"])
def test_a_report_does_not_overwrite_its_source(rows: Rows, tmp_path: Path, name: str) -> None:
    path = Path(written(tmp_path, rows)).rename(tmp_path / name)
    before = path.read_bytes()
    with pytest.raises(UserError, match=f"{name} would be overwritten by the report: give another --out"):
        report(path, baseline="adam", out=tmp_path)
    assert path.read_bytes() == before


def test_a_report_does_not_go_into_a_study_unasked(
    rows: Rows, runs: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "out/curves/runs/R1/none/seed-0").mkdir(parents=True)
    (tmp_path / "out/curves/runs/R1/none/seed-0/result.json").write_text("{}")
    with pytest.raises(UserError, match="out/curves is the folder of another study: give --out"):
        report(written(tmp_path, rows), baseline="adam")


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        ({}, {"goal": np.nan}, "goal=nan: give a finite number"),
        ({}, {"goal": np.inf}, "goal=inf: give a finite number"),
        ({"seconds": "nan"}, {}, "line 2: seconds=nan: give a finite number"),
        ({"seconds": -1}, {}, "line 2: seconds=-1.0: give a finite number"),
        ({"test_f1": "nan"}, {}, "line 2: test_f1=nan: give a finite number"),
        ({"step": 1e20}, {}, r"line 2: step is '1e\+20': give a whole number, at most 2\*\*53"),
        ({"arm": ""}, {}, "line 2: arm='': give a name"),
        ({"study": " "}, {}, "line 2: study='': give a name"),
        ({"accuracy": 90}, {"metric": "accuracy"}, "an accuracy of 90 is above 1: divide it by 100"),
        ({"accuracy": -0.5}, {"metric": "accuracy"}, "an accuracy of -0.5 is below 0"),
        ({"accuracy": 0.5, "test_accuracy": 90}, {"metric": "accuracy"}, "an accuracy of 90 is above 1"),
        ({"accuracy": 0.5}, {"metric": "accuracy", "goal": 90}, "goal=90: give an accuracy above 0 and at most 1"),
    ],
)
def test_values_that_make_no_report(
    rows: Rows, tmp_path: Path, change: dict[str, Any], options: dict[str, Any], message: str
) -> None:
    path = written(tmp_path, [{**row, **change} for row in rows])
    with pytest.raises(UserError, match=message):
        report(path, baseline="adam", out=tmp_path / "out", **({"metric": "f1"} | options))


def test_a_goal_needs_a_point_after_step_0(rows: Rows, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="s: all points are of step 0, and a goal is reached after it"):
        report([row for row in rows if row["step"] == 0], baseline="adam", goal=0.5, out=tmp_path)


def test_no_seconds_are_no_speed(rows: Rows, tmp_path: Path) -> None:
    (cell,) = report([{**row, "seconds": 0} for row in rows], baseline="adam", goal=0.5, out=tmp_path)["cells"]
    assert (cell["arms"]["lion"]["vs_none"]["seconds_ratio"], cell["arms"]["lion"]["n_reached"]) == (None, 6)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("study;arm;seed;step;f1\ns;a;0;1;0,5\n", "the delimiter is ';': use commas, and write decimals with a point"),
        ("study\tarm\tseed\tstep\tf1\ns\ta\t0\t1\t0.5\n", r"the delimiter is '\\t': use commas"),
        ("study,arm,seed,step,f1\ns,a,0,1,0,5\n", "line 2: more fields than columns: write decimals with a point"),
        ("study,arm,seed,step,f1,f1\ns,a,0,1,0.5,0.6\n", "column 'f1' is there twice: rename or remove one"),
    ],
)
def test_tables_that_are_not_as_they_should_be(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "c.csv").write_text(text)
    with pytest.raises(UserError, match=message):
        read_curves(tmp_path / "c.csv", None, None, None)


def test_spaces_and_case_of_a_header_do_not_count(tmp_path: Path) -> None:
    (tmp_path / "c.csv").write_text("Study, Arm, Seed, STEP, F1 , Seconds\ns, a, 0, 1, 0.5, 2\n")
    (run,) = read_curves(tmp_path / "c.csv", None, None, None)
    assert (run["cell"], run["arm"], run["test_F1"], run["seconds"]) == ("s", "a", 0.5, 2)


def test_a_number_in_a_name_is_no_seed(tmp_path: Path) -> None:
    for name in ("resnet18", "resnet50"):
        with SummaryWriter(str(tmp_path / name)) as writer:
            writer.add_scalar("acc", 1.0, 1)
    with pytest.raises(UserError, match="resnet18: no arm and seed in its name"):
        report(tmp_path, baseline="resnet")
    names = ("resnet18-seed-3", "resnet18_3", "resnet18.v3", "seed3", "3", "adamseed3", "s-3", "version_3")
    found = [RUN_NAME.fullmatch(name) for name in names]
    assert [match and match["arm"] for match in found] == ["resnet18", "resnet18", None, "", "", "adam", "", ""]


@pytest.mark.parametrize("odd", ["a|b <i>c</i>\nd", r"lr=$\foo{$"])
def test_names_with_signs_that_mean_something_elsewhere(rows: Rows, tmp_path: Path, odd: str) -> None:
    renamed = [{odd if k == "f1" else k: odd if v == "lion" else v for k, v in row.items()} for row in rows]
    report(written(tmp_path, renamed), baseline="adam", goal=0.5, out=tmp_path / "out")
    lines = [line for line in (tmp_path / "out/report.md").read_text().splitlines() if line.startswith("|")]
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines[:4]}) == 1
    assert not any("<" in line for line in lines)


def test_studies_whose_names_differ_in_a_sign_have_figures_of_their_own(rows: Rows, tmp_path: Path) -> None:
    both = [{**row, "study": name, "f1": row["f1"] / part} for name, part in (("a b", 1), ("a-b", 2)) for row in rows]
    report(both, baseline="adam", out=tmp_path)
    pictures = sorted((tmp_path / "figures").glob("a-b-f1*.png"))
    assert len(pictures) == 2
    assert pictures[0].read_bytes() != pictures[1].read_bytes()
