"""The page of the convergence study: a line per cell, and commands that ask for the runs that are in the archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from eval import overview
from eval.convergence import commands
from mireg.ablation.command.arguments import parse
from mireg.ablation.command.request import chosen_study
from mireg.ablation.report.results import load_results
from mireg.ablation.report.summary import summarise
from mireg.ablation.storage.provenance import settings
from tests.ablation.report.synthetic import result

KEPT = Path(__file__).parents[2] / "docs" / "results" / "convergence"


@pytest.mark.skipif(not KEPT.exists(), reason="no runs are archived yet")
def test_the_commands_ask_for_the_archived_runs() -> None:
    asked = {}
    for command in commands(json.loads((KEPT / "summary.json").read_text())):
        assert command.startswith("python train.py ")
        study = chosen_study(parse(command.split()[2:], "train.py"), train.catalogue())
        for spec in study.runs():
            tuned = study.tuning is not None
            asked[spec.cell.name, spec.arm, spec.seed] = tuned, settings(spec.as_dict())
    found = {(run["cell"], run["arm"], run["seed"]): settings(run["spec"]) for run in load_results(KEPT)}
    assert set(found) == set(asked)
    for run, (tuned, wanted) in asked.items():
        if tuned:  # the rate is chosen by the runs that tune it
            wanted["cell"]["lr"] = found[run]["cell"]["lr"]
        wanted["cell"] = {key: value for key, value in wanted["cell"].items() if key in found[run]["cell"] or value}
        assert found[run] == wanted, run


def test_a_line_says_why_there_is_no_speed() -> None:
    steps: dict[str, dict[str, tuple[int | None, ...]]] = {
        "R1": {"none": (None,) * 6, "mi": (100,) * 6, "target-shuffled": (None,) * 6},
        "H2": {"none": (None,) * 6, "mi": (100,) * 6, "target-shuffled": (800, *(None,) * 5)},
        "P6": {"none": (None,) * 6, "mi": (None,) * 6},
    }
    results = [
        result(arm, seed, reached, cell=cell, target=None if cell == "P6" else 0.75)
        for cell, arms in steps.items()
        for arm, of in arms.items()
        for seed, reached in enumerate(of)
    ]
    summary = summarise("convergence", results)
    rows = {row.split(":")[0].strip("| "): row.strip("| ").split(" | ") for row in overview.table(summary)}
    column = dict(zip(overview.COLUMNS, range(len(overview.COLUMNS)), strict=True))
    control = column["control: speed"]
    assert (rows["R1"][control], rows["R1"][column["speed in steps"]]) == (
        "neither: 0/6 vs 0/6",
        "only with it: 6/6 vs 0/6",
    )
    assert rows["R1"][column["`none` → `mi`"]] == "not in 1,000 (0 of 6) → 100"
    assert rows["H2"][control] == "neither: 1/6 vs 0/6"
    assert (rows["P6"][control], rows["R3"][column["`none` → `mi`"]]) == ("not run", "not run")
    texts = [text.get_text() for text in overview.draw(summary).axes[0].texts]
    assert texts == [
        "only with it: 6/6 vs 0/6",
        "neither: 0/6 vs 0/6",
        "only with it: 6/6 vs 0/6",
        "neither: 1/6 vs 0/6",
        "points at the end: +0.0 [+0.0, +0.0]",
    ]
