"""The page of the convergence study: its commands ask for the runs that are in the archive."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train
from eval.convergence import commands
from mireg.ablation.command.arguments import parse
from mireg.ablation.command.request import chosen_study
from mireg.ablation.report.results import load_results
from mireg.ablation.storage.provenance import settings

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
        assert found[run] == wanted, run
