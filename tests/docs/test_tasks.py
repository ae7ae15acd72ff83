"""The examples of docs/tasks.md run as they stand: tasks, data that come in batches, and arms from a file."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import train
from mireg.ablation.data import load
from mireg.ablation.tasks import TASKS

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "tasks.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
ARMS = BLOCKS[-1]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for path in (DOCS / "examples").glob("*.py"):
        shutil.copy(path, tmp_path)
    (tmp_path / "lab.py").write_text(f"import torch\n\n{ARMS}")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    for name in ("ctc", "flow", "lab"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    load.cache_clear()


@pytest.mark.parametrize("name", ["ctc", "flow"])
def test_examples(name: str, tmp_path: Path) -> None:
    text = (DOCS / "examples" / f"{name}.py").read_text()
    assert text in BLOCKS
    (command,) = re.findall(r"^python train.py (.*)$", text, re.MULTILINE)
    small = ["--steps", "8", "--eval-every", "4", "--seeds", "1", "--workers", "1", "--out", str(tmp_path / "out")]
    assert train.main([*shlex.split(command), *small]) == 0
    (cell,) = json.loads((tmp_path / "out" / "summary.json").read_text())["cells"]
    assert (cell["metric"], cell["mode"]) == (("error_rate", "min") if name == "ctc" else ("loss", "min"))
    assert len(cell["arms"]) == 2
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("result.json")]
    assert len({run["pairing"]["batches"] for run in results}) == 1
    assert all("inactive" not in run["verdict"] for run in results)


def test_every_sequence_of_the_ctc_example_can_be_read() -> None:
    example = import_module("ctc")
    symbols = [example.sample(seed)[1] for seed in range(100)]
    assert all((one[1:] != one[:-1]).all() for one in symbols)  # nothing parts a symbol from the same one behind it
    assert set(torch.cat(symbols).tolist()) == set(range(1, example.SYMBOLS + 1))


def test_arms_from_a_file(tmp_path: Path) -> None:
    words = ["--model", "mlp", "--steps", "4", "--eval-every", "2", "--seeds", "1", "--workers", "1", "--lr", "0.1"]
    arms = ["none", "lab:penalty", "lab:wide", "lab:rprop"]
    assert train.main([*words, "--arms", *arms, "--out", str(tmp_path / "out")]) == 0
    results = [json.loads(path.read_text()) for path in (tmp_path / "out").rglob("result.json")]
    finals = {run["arm"]: run["curve"][-1]["loss"] for run in results}
    assert set(finals) == set(arms)
    assert len(set(finals.values())) == 4
    (penalised,) = [run for run in results if run["arm"] == "lab:penalty"]
    assert penalised["curve"][-1]["term_share"] > 0


def test_the_table_names_every_task() -> None:
    rows = {row[0]: row[1] for row in re.findall(r"^\| `(\w[\w-]*)` \|.*\| (.*?) \|$", TEXT, re.MULTILINE)}
    assert set(rows) == set(TASKS)
    for name, task in TASKS.items():
        assert list(task(3).modes) == re.findall(r"`(\w+)`", rows[name])
