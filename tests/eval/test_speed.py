"""The table of speeds names every estimator, and every peer, there or not."""

from __future__ import annotations

import importlib

from eval import speed
from mireg import estimators


def test_missing_peers_are_named(monkeypatch, tmp_path, capsys):
    def nothing(name):
        raise ImportError(f"no {name}")

    monkeypatch.setattr(importlib, "import_module", nothing)
    path = tmp_path / "speed.json"
    assert speed.main(["--sizes", "8", "--layers", "3", "--width", "4", "--repeats", "1", "--json", str(path)]) == 0
    rows = speed.json.loads(path.read_text())["rows"]
    assert {row["what"] for row in rows if "speedup" in row} == {
        name for name in estimators.names() if estimators.REGISTRY[name].is_differentiable
    }
    assert [row["what"].split()[0] for row in rows if "missing" in row] == list(speed.PEERS)


def test_scikit_learn_is_timed():
    (row,) = [row for row in speed.compare(8, 3, 4, 1) if row["what"].startswith("scikit-learn")]
    assert row["seconds"] > 0
