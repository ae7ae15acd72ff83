"""The tables of the estimators' cards hold what the truth table holds."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from eval.truth.tables import card, cell
from mireg import estimators

DOCS = Path(__file__).parents[2] / "docs"
TABLES = [path for path in sorted((DOCS / "results/truth").glob("*.json")) if path.stem != "held-out"]
ROWS = [row for path in TABLES for row in json.loads(path.read_text())["rows"]]
CARDS = sorted(path for path in (DOCS / "estimators").glob("*.md") if path.stem != "index")


@pytest.mark.parametrize("card", CARDS, ids=lambda path: path.stem)
def test_tables_are_those_of_the_truth_table(card: Path) -> None:
    of_card = [row for row in ROWS if row["estimator"].split(",")[0] == card.stem]
    read: dict[str, list[str]] = {}
    for row in of_card:
        read.setdefault(row["task"], []).append(cell(row))
    lines = [re.split(r"\s*\|\s*", line)[1:-1] for line in card.read_text().splitlines() if line.startswith("| ")]
    tables = [line for line in lines if line[0] in read]
    assert len(tables) > 20
    for task, _, *cells in tables:
        assert cells == read[task]


def test_the_table_of_a_card_is_printed() -> None:
    of_one = [row for row in ROWS if row["estimator"] == "gaussian"]
    lines = (DOCS / "estimators" / "gaussian.md").read_text().splitlines()
    written, printed = {line for line in lines if line.startswith("| ")}, card(of_one)
    assert len(written) > 20
    assert written <= set(printed)
    assert printed[-1].startswith("Median milliseconds for one estimate without gradient, one thread: n = 5000: 0.")


def test_every_estimator_has_a_card_that_is_listed() -> None:
    assert [card.stem for card in CARDS] == estimators.names()
    for place in (DOCS / "estimators" / "index.md", DOCS.parent / "mkdocs.yml"):
        listed = set(re.findall(r"(\w+)\.md", place.read_text()))
        assert listed.issuperset(estimators.names()), place
