"""A study's archive: small, the same bytes from the same runs, and as good as the runs for every table."""

from __future__ import annotations

import gzip
import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import train
from eval import archive
from eval import report as command
from mireg.ablation import report
from mireg.ablation.report.sources import load_results
from mireg.ablation.storage.files import DamagedError, write_json
from mireg.ablation.storage.invocation import processor
from mireg.ablation.storage.rates import read_tuning, write_tuning
from mireg.ablation.study import presets
from mireg.ablation.study.config import Cell, Study, Tuning
from tests.ablation.report.synthetic import result, write_study

ROOT = Path(__file__).parents[2]
TRIED = {"lr": 1e-3, "tried": {"0.001": {"steps": [100, None], "accuracy": [0.8, 0.7]}}}


def study(folder: Path, *cells: str, mi: int = 100, seeds: int = 11) -> Path:
    runs = [
        result(arm, seed, reached, cell=cell)
        for cell in cells
        for arm, reached in (("none", 800), ("mi", mi), ("lbe", None))
        for seed in range(seeds)
    ]
    for run in runs:
        run["seconds"] += run["seed"] / 7  # numbers that text must not cut short
        run["weights_sha256"] = "0" * 64
    write_study(folder, runs)
    record = json.loads((folder / "study.json").read_text())
    tuning = {"lrs": [1e-3], "seeds": 2, "first_seed": 0, "steps": dict.fromkeys(cells, 500)}
    invocation = {
        "command": "/somewhere/python train.py",
        "host": "here",
        "processor": "fast",
        "device": "cpu",
        "commit": "abc",
        "versions": {"torch": "2"},
    }
    write_json(folder / "study.json", {**record, "seeds": [0], "tuning": tuning, "invocations": [invocation]})
    for cell in cells:
        write_tuning(folder, cell, dict.fromkeys(("none", "mi", "lbe"), TRIED))
    return folder


def tables(folder: Path) -> list[bytes]:
    return [(folder / name).read_bytes() for name in ("summary.json", "report.md")]


def test_tables_come_out_the_same(tmp_path: Path) -> None:
    report.report(study(tmp_path / "study", "H1", "R1"))
    kept = tmp_path / "kept"
    archive.add(tmp_path / "study", kept)
    assert len(load_results(kept)) == 2 * 3 * 11
    report.report(kept)
    assert tables(kept) == tables(tmp_path / "study")
    page = (kept / "report.html").read_text()
    assert "By step: validation accuracy" in page
    assert "weakest link" not in page
    assert len(list((kept / "figures").glob("*-accuracy.png"))) == 2
    assert not (kept / "runs").exists()


def test_what_is_kept_is_small_and_does_not_name_the_host(tmp_path: Path) -> None:
    archive.add(study(tmp_path / "study", "R1"), tmp_path / "kept")
    data = (tmp_path / "kept" / "results.jsonl.gz").read_bytes()
    assert len(data) < 15_000
    run = json.loads(gzip.decompress(data).splitlines()[0])
    assert list(run["curve"][0]) == ["step", "seconds", "validation_accuracy", "step_ms"]
    assert run["spec"]["cell"]["name"] == "R1"
    assert "weights_sha256" not in run
    record = (tmp_path / "kept" / "study.json").read_text()
    assert "somewhere" not in record
    assert '"here"' not in record
    assert json.loads(record)["made"]["R1"] == {
        "commits": ["abc"],
        "processors": ["fast"],
        "devices": ["cpu"],
        "versions": {"torch": "2"},
    }


def test_the_same_runs_give_the_same_bytes(tmp_path: Path) -> None:
    study(tmp_path / "study", "R1")
    contents = []
    for name in ("one", "two"):
        for _ in range(2):
            archive.add(tmp_path / "study", tmp_path / name)
        contents.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
    assert contents[0] == contents[1]
    assert set(contents[0]) == {"results.jsonl.gz", "study.json", "tuning.json"}


def test_cells_are_added_and_replaced_whole(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    archive.add(study(tmp_path / "first", "R1", "R2"), kept)
    archive.add(study(tmp_path / "second", "R2", "H1", mi=200, seeds=3), kept)
    cells = {cell["cell"]: cell["arms"]["mi"] for cell in report.report(kept)["cells"]}
    assert list(cells) == ["H1", "R1", "R2"]
    assert [cells[name]["n_seeds"] for name in cells] == [3, 11, 3]
    assert cells["R2"]["steps_to_target"]["median"] == 200
    record = json.loads((kept / "study.json").read_text())
    assert list(record["configuration"]) == list(record["made"]) == list(record["tuning"]["steps"]) == list(cells)


def configured(folder: Path, *arms: str, steps: int = 600) -> Path:
    """Only these arms of a study of the cell R1, with settings."""
    study(folder, "R1")
    for arm in {"none", "mi", "lbe"} - set(arms):
        shutil.rmtree(folder / "runs" / "R1" / arm)
    record = json.loads((folder / "study.json").read_text())
    settings = {arm: {"cell": {"steps": steps, "model_options": {"batchnorm": arm == "lbe"}}} for arm in arms}
    write_json(folder / "study.json", {**record, "arms": list(arms), "configuration": {"R1": settings}})
    (folder / "tuning.json").unlink()
    write_tuning(folder, "R1", dict.fromkeys(arms, TRIED))
    return folder


def test_arms_join_those_of_the_same_cell(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    archive.add(configured(tmp_path / "first", "none", "mi"), kept)
    archive.add(configured(tmp_path / "second", "lbe"), kept)
    archive.add(configured(tmp_path / "second", "lbe"), kept)
    (cell,) = report.report(kept)["cells"]
    assert {name: arm["n_seeds"] for name, arm in cell["arms"].items()} == {"none": 11, "mi": 11, "lbe": 11}
    record = json.loads((kept / "study.json").read_text())
    assert set(record["configuration"]["R1"]) == set(read_tuning(kept)["R1"]) == {"none", "mi", "lbe"}
    archive.add(configured(tmp_path / "other", "lbe", steps=900), kept)  # other settings: the cell is replaced
    (cell,) = report.report(kept)["cells"]
    assert list(cell["arms"]) == list(read_tuning(kept)["R1"]) == ["lbe"]


def test_arms_are_dropped_from_cells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = tmp_path / "kept"
    archive.add(configured(tmp_path / "first", "none", "mi", "lbe"), kept)
    archive.add(study(tmp_path / "second", "H1"), kept)
    monkeypatch.setattr("sys.argv", ["eval.report", str(kept), "--drop", "mi", "pairs-shuffled", "--cells", "R1", "R2"])
    assert command.main() == 0
    found = {(run["cell"], run["arm"]) for run in load_results(kept)}
    assert found == {("H1", "lbe"), ("H1", "mi"), ("H1", "none"), ("R1", "lbe"), ("R1", "none")}
    record = json.loads((kept / "study.json").read_text())
    assert list(record["configuration"]["R1"]) == list(read_tuning(kept)["R1"]) == ["none", "lbe"]


def test_a_study_goes_on_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = Cell("tiny", "digits", "mlp", 0.3, 20, eval_every=5, model_options={"depth": 3, "width": 32})
    tuning = Tuning((1e-4, 3e-3), seeds=1)
    study = Study("tuned", (cell, replace(cell, name="other")), ("none", "mi"), seeds=1, first_seed=10, tuning=tuning)
    monkeypatch.setitem(presets.PRESETS, "tuned", study)
    kept = tmp_path / "kept"

    def run(out: Path, *words: str) -> int:
        return train.main(["--preset", "tuned", "--workers", "1", "--quiet", "--out", str(out), *words])

    assert run(tmp_path / "first") == 0
    record = json.loads((tmp_path / "first" / "study.json").read_text())
    for call in record["invocations"]:
        call["processor"] = "an earlier one"
    write_json(tmp_path / "first" / "study.json", record)
    archive.add(tmp_path / "first", kept)
    archive.unpack(kept, tmp_path / "more", ["tiny"])
    assert run(tmp_path / "more", "--cells", "tiny", "--seeds", "2") == 0
    assert not (tmp_path / "more" / "tuning").exists()
    before = [run for run in load_results(kept) if run["cell"] == "tiny"]
    both = load_results(tmp_path / "more")
    assert [run for run in both if run["seed"] == 10] == before
    assert [(run["arm"], run["seed"], run["lr"]) for run in both if run["seed"] == 11] == [
        (run["arm"], 11, run["lr"]) for run in before
    ]
    archive.add(tmp_path / "more", kept)
    cells = {
        of["cell"]: {arm: found["n_seeds"] for arm, found in of["arms"].items()} for of in report.report(kept)["cells"]
    }
    assert cells == {"other": {"none": 1, "mi": 1}, "tiny": {"none": 2, "mi": 2}}
    made = json.loads((kept / "study.json").read_text())["made"]
    assert made["other"]["processors"] == ["an earlier one"]
    assert made["tiny"]["processors"] == sorted(["an earlier one", processor()])
    assert run(tmp_path / "more", "--cells", "tiny", "--seeds", "2", "--steps", "30") == 2  # other settings


def test_what_cannot_be_unpacked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    kept, out = tmp_path / "kept", tmp_path / "out"
    archive.add(study(tmp_path / "tuned", "R1"), kept)
    given = study(tmp_path / "given", "H1")
    record = json.loads((given / "study.json").read_text())
    write_json(given / "study.json", {**record, "tuning": {}})
    archive.add(given, kept)
    with pytest.raises(ValueError, match="has no runs of R9: name cells that it has"):
        archive.unpack(kept, out, ["R1", "R9"])
    with pytest.raises(ValueError, match="only R1 of these cells have tuned rates: unpack them separately"):
        archive.unpack(kept, out, ["R1", "H1"])
    monkeypatch.setattr("sys.argv", ["eval.report", str(kept), "--unpack", str(kept), "--cells", "R1"])
    assert command.main() == 2
    assert "kept is not empty: give a new folder to --unpack" in capsys.readouterr().err
    monkeypatch.setattr("sys.argv", ["eval.report", str(kept), "--unpack", str(out)])
    with pytest.raises(SystemExit):
        command.main()
    assert "--unpack and --cells go together, and so do --drop and --cells" in capsys.readouterr().err
    assert not out.exists()


def test_archives_do_not_mix(tmp_path: Path) -> None:
    archive.add(study(tmp_path / "first", "R1"), tmp_path / "kept")
    second = study(tmp_path / "second", "R2")
    record = json.loads((second / "study.json").read_text())
    write_json(second / "study.json", {**record, "tuning": {**record["tuning"], "lrs": [1e-2]}})
    with pytest.raises(ValueError, match=r"tuned otherwise \(lrs: \[0.001\] → \[0.01\]\)"):
        archive.add(second, tmp_path / "kept")
    write_json(second / "study.json", {**record, "study": "other"})
    with pytest.raises(ValueError, match="of the study 'synthetic', not 'other'"):
        archive.add(second, tmp_path / "kept")


def test_a_cell_at_a_given_rate_joins_tuned_ones(tmp_path: Path) -> None:
    given = study(tmp_path / "given", "H1")
    (given / "tuning.json").unlink()
    record = json.loads((given / "study.json").read_text())
    write_json(given / "study.json", {**record, "tuning": {}})
    archive.add(given, tmp_path / "kept")
    archive.add(study(tmp_path / "tuned", "R1"), tmp_path / "kept")
    archive.add(given, tmp_path / "kept")
    found = json.loads((tmp_path / "kept" / "study.json").read_text())["tuning"]
    assert (found["lrs"], found["steps"]) == ([1e-3], {"R1": 500})
    assert [cell["cell"] for cell in report.report(tmp_path / "kept")["cells"]] == ["H1", "R1"]


def test_a_cell_replaced_at_a_given_rate_loses_its_tuning(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    archive.add(study(tmp_path / "tuned", "H1", "R1"), kept)
    given = study(tmp_path / "given", "H1")
    (given / "tuning.json").unlink()
    record = json.loads((given / "study.json").read_text())
    write_json(given / "study.json", {**record, "tuning": {}})
    archive.add(given, kept)
    assert json.loads((kept / "study.json").read_text())["tuning"]["steps"] == {"R1": 500}
    assert list(read_tuning(kept)) == ["R1"]


def test_a_damaged_archive_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl.gz").write_bytes(gzip.compress(b"{}\n")[:-9])
    with pytest.raises(DamagedError, match=r"results.jsonl.gz is damaged"):
        load_results(tmp_path)


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    folder, kept, page = study(tmp_path / "study", "R1"), tmp_path / "kept", tmp_path / "page.md"
    page.write_text("# Page\n\n<!-- tables -->\nWhat was.\n<!-- /tables -->\n\nEnd.\n")
    monkeypatch.setattr("sys.argv", ["eval.report", str(folder), "--archive", str(kept), "--page", str(page)])
    assert command.main() == 0
    assert tables(folder) == tables(kept)
    text = page.read_text()
    assert text.startswith("# Page\n\n<!-- tables -->\n\n### R1: 75%")
    assert text.endswith("<!-- /tables -->\n\nEnd.\n")
    assert "What was." not in text
    assert "| R1 | mi | **never (75%)** |" in text
    assert command.main() == 0
    assert page.read_text() == text
    page.write_text("# Page\n")
    assert command.main() == 2
    assert "page.md has no <!-- tables --> ... <!-- /tables -->" in capsys.readouterr().err


def test_the_pages_are_those_of_the_archive(tmp_path: Path) -> None:
    kept = ROOT / "docs" / "results" / "convergence"
    if not kept.exists():
        pytest.skip("no runs are archived yet")
    pages, copy = ("docs/convergence.md", "README.md"), tmp_path / "docs" / "results" / "convergence"
    copy.mkdir(parents=True)
    for name in pages:
        (tmp_path / name).write_bytes((ROOT / name).read_bytes())
    for name in ("results.jsonl.gz", "study.json", "tuning.json", "forecast.json"):
        if (kept / name).exists():
            (copy / name).write_bytes((kept / name).read_bytes())
    command.fill(copy, *(tmp_path / name for name in pages))
    for name in pages:
        assert (tmp_path / name).read_bytes() == (ROOT / name).read_bytes()
    assert numbers(copy / "summary.json") == numbers(kept / "summary.json")
    drawn = {path.relative_to(copy) for path in copy.rglob("*.png")}
    assert drawn == {path.relative_to(kept) for path in kept.rglob("*.png")}


def numbers(path: Path) -> Any:
    """The content of a file, to ten digits: the last ones depend on the processor's instructions."""
    return json.loads(path.read_text(), parse_float=lambda number: f"{float(number):.10g}")
