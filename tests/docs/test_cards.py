"""The tables of the estimators' cards hold what the truth table holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
TABLES = ("truth", "usable")
ROWS = [row for name in TABLES for row in json.loads((DOCS / f"results/truth/{name}.json").read_text())["rows"]]
CARDS = sorted(path for path in (DOCS / "estimators").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_tables_are_those_of_the_truth_table(card: Path) -> None:
    of_card = [row for row in ROWS if row["estimator"].split(",")[0] == card.stem]
    read: dict[str, list[str]] = {}
    for row in of_card:
        value = f"{row['mean']:.3f}" if row["bias"] is None else f"{row['bias']:+.3f}"
        read.setdefault(row["task"], []).append(f"{value} ({row['std']:.3f})")
    lines = [re.split(r"\s*\|\s*", line)[1:-1] for line in card.read_text().splitlines() if line.startswith("| ")]
    tables = [line for line in lines if line[0] in read]
    assert len(tables) > 20
    for task, _, *cells in tables:
        assert cells == read[task]
