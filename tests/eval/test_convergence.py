"""The page of the convergence study: a line per cell, and commands that ask for the runs that are in the archive."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

import train
from eval import forecast, overview, story
from eval.convergence import commands, judged
from mireg.ablation.command.arguments import parse
from mireg.ablation.command.request import chosen_study
from mireg.ablation.report.sources import load_results
from mireg.ablation.report.summary import summarise
from mireg.ablation.storage.changes import settings
from mireg.ablation.study.config import Cell
from tests.ablation.report.synthetic import result

KEPT = Path(__file__).parents[2] / "docs" / "results" / "convergence"

RETIRED = {"lr_divisor": 1.0, "diagnostics": False}
"""Settings that cells had when some of the runs were made, with the values that change nothing."""


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
        of_run = {
            **found[run],
            "cell": {key: of for key, of in found[run]["cell"].items() if (key, of) not in RETIRED.items()},
        }
        wanted["cell"] = {key: value for key, value in wanted["cell"].items() if key in found[run]["cell"] or value}
        assert of_run == wanted, run


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
    assert rows["P6"][control] == "not run"
    assert "R3" not in rows
    texts = [text.get_text() for text in overview.draw(summary).axes[0].texts]
    assert texts == [
        "only with it: 6/6 vs 0/6",
        "neither: 0/6 vs 0/6",
        "only with it: 6/6 vs 0/6",
        "neither: 1/6 vs 0/6",
        "points at the end: +0.0 [+0.0, +0.0]",
    ]


def test_the_story_says_who_gets_there_and_how_many_ran() -> None:
    steps: dict[str, dict[str, tuple[int | None, ...]]] = {
        "N1": {"none": (None,) * 6, "mi": (100,) * 6, "xavier": (300,) * 4, "pairs-shuffled": (None,) * 6,
               "mi-kde": (325, None, 325, 325, 325, 325)},
        "P3": {"none": (None,) * 6, "mi": (None,) * 6},
        "R4": {"none": (None,) * 6, "mi": (100,) * 6},
    }  # fmt: skip
    results = [
        result(arm, seed, reached, cell=cell, target=None if cell == "P3" else 0.7)
        for cell, arms in steps.items()
        for arm, of in arms.items()
        for seed, reached in enumerate(of)
    ]
    text = story.block(summarise("convergence", results))
    (n1,) = [line for line in text.splitlines() if line.startswith("| LeNet")]
    assert "(N1): 70% | never, " in n1
    assert "| `xavier`: 300, " in n1
    assert ", 4 seeds | not run | not run |" in n1
    assert "the controls reach it in 0 of 6 runs: `pairs-shuffled`." in text
    assert "N1 `mi-kde` 325 (5 of 6), " in text
    assert "(R4)" not in text
    assert [line.split("|")[1].split("(")[1][:2] for line in text.splitlines() if "| not run |" in line] == ["N1", "P3"]


def test_cells_without_the_term_leave_the_page() -> None:
    results = [result(arm, 0, 100, cell=cell) for cell, arm in (("R1", "none"), ("R1", "mi"), ("R2", "none"))]
    summary = summarise("convergence", results)
    assert [cell["cell"] for cell in judged(summary)["cells"]] == ["R1"]
    assert [cell["cell"] for cell in summary["cells"]] == ["R1", "R2"]


def test_a_forecast_counts_a_network_that_only_the_term_starts_as_the_fastest() -> None:
    steps = {
        "N1": (None, 100),
        "R1": (None, 100),
        "H1": (200, 100),
        "H2": (300, 100),
        "H7": (100, 90),
        "R4": (None, None),
    }
    results = [
        result(arm, seed, reached, cell=cell, target=0.7)
        for cell, of in steps.items()
        for arm, reached in zip(("none", "mi"), of, strict=True)
        for seed in range(6)
    ]
    shares = {"N1": 0.9, "R1": 0.95, "H1": 0.3, "H2": 0.5, "H7": 0.1, "R4": 0.99}
    text = forecast.block(shares, summarise("convergence", results))
    assert "over 5 cells" in text
    assert "the more is lost, the more the term helps." in text
    assert "| R1 | 95% | only with it: 6/6 vs 0/6 |" in text
    assert "R4" not in text
    assert "does not tell" in forecast.verdict([0.1, 0.2, 0.3, 0.4, 0.5], [2, 1, 2, 1, 2])
    assert forecast.block({}, summarise("convergence", results)).startswith("Not measured")


def test_what_a_network_has_lost_is_a_share(monkeypatch: pytest.MonkeyPatch) -> None:
    study = SimpleNamespace(cells=[Cell("N9", "digits", "mlp", 0.7, 10, model_options={"depth": 20, "width": 16})])
    monkeypatch.setattr(forecast, "CONVERGENCE", study)
    assert 0.5 < forecast.lost("N9", KEPT) <= 1
