"""The table of speeds names every estimator, and every peer, there or not."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest

from eval import speed
from mireg import estimators


def test_missing_peers_are_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    load = importlib.import_module

    def none_of_the_peers(name: str, package: str | None = None) -> ModuleType:
        if name.partition(".")[0] in ("kornia", "torch_mist", "sklearn"):
            raise ImportError(f"no {name}")
        return load(name, package)  # torch loads parts of itself so

    monkeypatch.setattr(importlib, "import_module", none_of_the_peers)
    path = tmp_path / "speed.json"
    assert speed.main(["--sizes", "8", "--layers", "3", "--width", "4", "--repeats", "1", "--json", str(path)]) == 0
    rows = json.loads(path.read_text())["rows"]
    assert {row["what"] for row in rows if "speedup" in row} == {
        name for name in estimators.names() if estimators.REGISTRY[name].is_differentiable
    }
    assert [row["what"].split()[0] for row in rows if "missing" in row] == list(speed.PEERS)


def test_scikit_learn_is_timed() -> None:
    (row,) = [row for row in speed.compare(8, 3, 4, 1) if row["what"].startswith("scikit-learn")]
    assert row["seconds"] > 0


def test_bars_name_what_is_missed() -> None:
    rows = [
        {"n": 8, "what": "kde", "seconds": 1.0, "pair_by_pair_seconds": 4.0, "speedup": 4.0},
        {"n": 8, "what": "binning", "seconds": 1.0, "pair_by_pair_seconds": 2.0, "speedup": 2.0},
        {"n": 8, "what": "kornia x", "seconds": 9.0, "times_slower_than": {"kde": 9.0, "binning": 9.0}},
        {"n": 8, "what": "torch-mist x", "seconds": None, "missing": "no"},
    ]
    assert [(bar["bar"], bar["met"]) for bar in speed.bars(rows)] == [
        ("kde against itself pair by pair, n = 8", True),
        ("binning against itself pair by pair, n = 8", False),
        ("binning against kornia x, n = 8", False),
    ]
