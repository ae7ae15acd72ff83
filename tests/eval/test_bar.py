"""The bar of the convergence study, on runs that never ran."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from eval import archive, convergence, report
from eval.bar import MET, NOT_MET, NOT_RUN, UNDEFINED, Line, lines, median_interval
from eval.saved import with_steps_saved
from mireg.ablation.report.summary import summarise
from tests.ablation.report.synthetic import result, write_study


def runs(cell: str, seeds: int = 6, **reached: int | None) -> list[dict[str, Any]]:
    return [
        result(arm.replace("_", "-"), seed, step, cell=cell) for arm, step in reached.items() for seed in range(seeds)
    ]


def judged(*results: list[dict[str, Any]]) -> dict[tuple[str, str], Line]:
    flat = [run for group in results for run in group]
    return {
        (line.cell, line.required): line for line in lines(with_steps_saved(summarise("convergence", flat), flat), flat)
    }


def status(found: dict[tuple[str, str], Line], cell: str, words: str) -> str:
    (line,) = [line for (name, required), line in found.items() if name == cell and words in required]
    return line.status


def test_what_has_no_runs_is_not_run() -> None:
    found = judged(runs("H1", none=500, mi=100))
    assert status(found, "R4", "`he`") == NOT_RUN
    assert status(found, "H1", "`target-shuffled` is not faster") == NOT_RUN
    assert status(found, "H1", "2 times fewer") == MET
    few = judged(runs("H1", seeds=2, none=500, mi=100))
    assert status(few, "H1", "2 times fewer") == NOT_RUN
    assert any("2 seeds are too few" in line.measured for line in few.values())


@pytest.mark.parametrize(("mi", "verdict"), [(125, MET), (150, NOT_MET), (None, NOT_MET)])
def test_steps_within(mi: int | None, verdict: str) -> None:
    assert status(judged(runs("R3", none=None, mi=mi)), "R3", "125 steps") == verdict


def test_one_slow_seed_misses_the_bar_whatever_the_median() -> None:
    slow = [
        *runs("R3", seeds=9, none=None, mi=100),
        result("mi", 9, 300, cell="R3"),
        result("none", 9, None, cell="R3"),
    ]
    line = judged(slow)["R3", "125 steps to target in the median, each seed within 250"]
    assert (line.status, line.measured) == (NOT_MET, "100 [100, 100], slowest 300")


def test_the_interval_decides_and_not_the_median() -> None:
    results = [result("none", seed, 500, cell="H1") for seed in range(6)]
    results += [result("mi", seed, 200 if seed < 4 else 400, cell="H1") for seed in range(6)]
    line = judged(results)["H1", "at least 2 times fewer steps than `none`"]
    assert line.measured.startswith("2.50 [")
    assert line.status == NOT_MET


def test_controls_and_baselines() -> None:
    cell = runs("R3", none=800, mi=100, target_shuffled=800, pairs_shuffled=None, deep_supervision=75)
    found = judged(cell)
    assert status(found, "R3", "`target-shuffled` is not faster") == MET
    assert status(found, "R3", "`target-shuffled` never") == NOT_MET
    assert status(found, "R3", "`pairs-shuffled` never") == MET
    assert status(found, "R3", "not slower than `deep") == NOT_MET
    quick = judged(runs("R3", none=800, mi=100, target_shuffled=100, pairs_shuffled=100))
    assert status(quick, "R3", "`target-shuffled` is not faster") == NOT_MET
    assert status(quick, "R3", "`pairs-shuffled` never") == NOT_MET


def test_a_network_as_people_build_it_is_judged_by_the_remedy_of_an_expert() -> None:
    good = judged(runs("N2", none=None, mi=100, he=None, batchnorm=100, mi_label_free=180, mi_kde=300, mi_binning=None))
    assert status(good, "N2", "1.25 times") == MET
    assert status(good, "N2", "1 point") == MET
    assert status(good, "N2", "or never") == MET
    assert status(good, "N2", "`mi-label-free` gets there") == MET
    assert status(good, "N2", "`mi-kde` gets there") == status(good, "N2", "`mi-binning` gets there") == NOT_MET
    assert (
        "`batchnorm` takes 1.00"
        in good["N2", "on every seed, within 1.25 times the steps of the expert's remedy"].measured
    )
    bad = judged(runs("N2", none=150, mi=100, he=50))
    assert status(bad, "N2", "1.25 times") == status(bad, "N2", "or never") == NOT_MET
    slow = [*runs("N2", none=None, mi=100, he=100), result("mi", 6, None, cell="N2"), result("he", 6, 100, cell="N2")]
    assert status(judged(slow), "N2", "1.25 times") == NOT_MET
    assert status(bad, "N1", "published terms") == NOT_RUN


def test_a_miss_is_infinite_in_the_interval_of_a_median() -> None:
    assert median_interval([100] * 5) == (100, 100, 100)
    middle, low, high = median_interval([100, 100, 100, None, None])
    assert (middle, low) == (100, 100)
    assert math.isinf(high)


def test_the_page_is_built_from_the_archive_alone_and_says_what_was_not_run(tmp_path: Path) -> None:
    results = runs("R3", none=None, mi=100, target_shuffled=None, batchnorm=300)
    write_study(tmp_path / "study", results)
    record = (tmp_path / "study" / "study.json").read_text().replace("synthetic", "convergence")
    (tmp_path / "study" / "study.json").write_text(record)
    kept, page = tmp_path / "results" / "convergence", tmp_path / "page.md"
    archive.add(tmp_path / "study", kept)
    page.write_text("# Page\n")
    with pytest.raises(ValueError, match=r"has no <!-- story --> ... <!-- /story --> or .*: put these lines where"):
        report.fill(kept, page)
    names = ("story", "overview", "bar", "tables")
    page.write_text("# Page\n\n" + "\n".join(f"<!-- {name} -->\n<!-- /{name} -->\n" for name in names) + "\nEnd.\n")
    report.fill(kept, page)
    text = page.read_text()
    assert "(R3): 75% | never, " in text
    assert "| `batchnorm`: 300, " in text
    rows = [line for line in text.splitlines() if line.startswith("| R3: mlp")]
    assert ", 6 seeds | not in 1,000 (0 of 6) → 100 | only with it: 6/6 vs 0/6 |" in rows[0]
    assert "`batchnorm`: 300 |" in rows[0]
    assert "Not run with the present method: N1, " in text
    assert "| H1, H2, H3, H4, H5, H6, H7, P1, P2 | `mi-label-free` ends less than 0.5 points" in text
    assert "| P4 | `mi-label-free` ends less than 0.005 nats" in text
    for name in ("speed.png", "figures/R3-accuracy.png"):
        assert f"(results/convergence/{name})" in text
        assert (kept / name).read_bytes().startswith(b"\x89PNG")
    assert "saved.png" not in text
    assert not (kept / "report.html").exists()
    report.fill(kept, page)
    assert page.read_text() == text


def budgeted(cell: str, ends: dict[int, dict[str, float]]) -> list[dict[str, Any]]:
    """Six runs of each arm that end at a metric, by steps; the most steps are the cell's own."""
    results = []
    for steps, arms in ends.items():
        shorter = steps < max(ends)
        for arm, end in arms.items():
            for seed in range(6):
                values = (0.1, end + seed / 1000)
                name = f"{cell}-{steps}" if shorter else cell
                run = result(arm, seed, 0, cell=name, steps=steps, target=None, values=values)
                run["spec"]["cell"]["budget_of"] = cell if shorter else None
                results.append(run)
    return results


def test_where_more_steps_gain_nothing_the_control_is_judged_by_how_it_ends() -> None:
    flat = {240: {"none": 0.62}, 320: {"none": 0.61}}
    good = judged(budgeted("P6", {**flat, 400: {"none": 0.60, "mi": 0.70, "target-shuffled": 0.58}}))
    assert status(good, "P6", "5% slower in seconds") == UNDEFINED
    assert status(good, "P6", "`target-shuffled` is not faster") == MET
    bad = judged(budgeted("P6", {**flat, 400: {"none": 0.60, "mi": 0.70, "target-shuffled": 0.65}}))
    assert status(bad, "P6", "`target-shuffled` is not faster") == NOT_MET
    alone = judged(budgeted("P6", {400: {"none": 0.60, "mi": 0.70}}))
    assert status(alone, "P6", "5% slower in seconds") == NOT_RUN


def test_a_cell_without_a_target_is_read_by_the_end_of_its_schedule() -> None:
    ends = {400: {"none": 0.60, "mi": 0.70, "deep-supervision": 0.65}, 240: {"none": 0.50}, 320: {"none": 0.55}}
    results = budgeted("P1", ends)
    found = judged(results)
    assert status(found, "P1", "ends less than 0.3 points") == MET
    assert status(found, "P1", "5% slower in seconds") == MET
    text = convergence.blocks(with_steps_saved(summarise("convergence", results), results), results, "x", {})
    (row,) = [line for line in text["overview"].splitlines() if line.startswith("| P1: vgg")]
    assert "`deep-supervision`: 65" in row
    assert "x/speed.png" in text["overview"]
    assert "x/saved.png" in text["tables"]
