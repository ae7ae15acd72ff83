"""The report of a study: what it says, in which form, and how it looks in a browser."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image
from rich.console import Console

from eval import report as command
from mireg.ablation import report
from mireg.ablation.report import figures, summarise
from mireg.ablation.report.curves import read_curves
from mireg.ablation.report.tables import as_markdown, comparison
from mireg.ablation.report.verdicts import bounds, headline, speed_verdict
from tests.ablation.report.synthetic import result, write_study
from tests.browser import browser_page, keep_screenshot

ARMS = {"none": None, "mi": 100, "target-shuffled": None, "last-layer": 900}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A reported study of two cells."""
    folder = tmp_path_factory.mktemp("study")
    runs = [
        result(arm, seed, None if reached is None else reached + 25 * seed, cell=cell)
        for cell in ("R1", "R2")
        for arm, reached in ARMS.items()
        for seed in range(6)
    ]
    write_study(folder, runs)
    report.report(folder)
    return folder


def summary_of(**reached: int | None) -> dict[str, Any]:
    runs = [result(arm, seed, step) for arm, step in reached.items() for seed in range(6)]
    return summarise("study", runs, list(reached))


@pytest.mark.parametrize(
    ("none", "mi", "speed", "end"),
    [
        (None, 100, "on 6 of 6 seeds (median 100 steps), none on 0 of 6 seeds in 1000 steps: faster.", "better"),
        (100, None, "on 0 of 6 seeds in 1000 steps, none on 6 of 6 seeds (median 100 steps): slower.", "worse"),
        (
            100,
            100,
            "mi reached 75% on 6 of 6 seeds (median 100 steps), 1.0x the speed of none (",
            "no difference shown",
        ),
        (
            None,
            None,
            "mi reached 75% on 0 of 6 seeds in 1000 steps, none on 0 of 6 seeds in 1000 steps",
            "no difference shown",
        ),
    ],
)
def test_verdict(none: int | None, mi: int | None, speed: str, end: str) -> None:
    (cell,) = summary_of(none=none, mi=mi)["cells"]
    verdict = headline(cell)
    assert speed in verdict
    ended = re.search(r" It ended at \d\d\.0% test accuracy, none at \d\d\.0% \(.* points\): (.*)\.$", verdict)
    assert ended is not None
    assert ended[1] == end
    assert "≥" not in verdict


def test_the_bound_of_a_speed_is_a_note() -> None:
    (cell,) = summary_of(none=None, mi=100, he=None)["cells"]
    assert comparison(cell)["speed [95%]"] == ["", "only with it: 6/6 vs 0/6", "neither: 0/6 vs 0/6"]
    assert comparison(cell)["steps to goal"] == ["not in 1000", "100", "not in 1000"]
    assert "speed in seconds [95%]" not in comparison(cell)
    assert bounds(cell).endswith("the whole budget of 1000 steps: mi at least 10.0x. A larger budget would move them.")
    (cell,) = summary_of(none=100, mi=200)["cells"]
    assert bounds(cell) == ""


def test_some_seeds_of_the_baseline_reach_the_goal() -> None:
    runs = [result("none", seed, 100 if seed < 2 else None) for seed in range(6)]
    (cell,) = summarise("study", runs + [result("mi", seed, 100) for seed in range(6)])["cells"]
    assert comparison(cell)["speed [95%]"][1] == "mostly with it: 6/6 vs 2/6"
    assert "none on 2 of 6 seeds (not in 1000 steps in the median): " in headline(cell)


def test_a_worse_end_is_said_where_neither_got_to_the_target() -> None:
    runs = [result(arm, seed, None) for arm in ("none", "mi") for seed in range(6)]
    for run in runs:
        run["test_accuracy"] = 0.70 + 0.01 * run["seed"] if run["arm"] == "none" else 0.10
    (cell,) = summarise("study", runs, ["none", "mi"])["cells"]
    assert "It ended at 10.0% test accuracy, none at 72.5% (-62.5 [" in headline(cell)
    assert headline(cell).endswith(" points): worse.")


@pytest.fixture
def losses() -> list[dict[str, Any]]:
    """Runs of a metric that is better the smaller it is, without a target."""
    return [
        result(arm, seed, None, target=None, metric="loss", values=(3.0, last + 0.01 * seed))
        for arm, last in (("none", 1.5), ("mi", 1.4))
        for seed in range(6)
    ]


def test_a_smaller_loss_is_better(losses: list[dict[str, Any]], tmp_path: Path) -> None:
    (cell,) = summarise("study", losses, ["none", "mi"])["cells"]
    assert (cell["metric"], cell["mode"], cell["target"]) == ("loss", "min", None)
    assert cell["arms"]["mi"]["final_metric"]["mean"] == pytest.approx(1.425)
    assert cell["arms"]["mi"]["vs_none"]["steps_ratio"] is None
    verdict = "mi ended at 1.425 test loss, none at 1.525 (-0.1 [-0.1, -0.1]): better."
    assert headline(cell) == verdict
    write_study(tmp_path, losses)
    report.report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "cell: test loss after 1000 steps" in page
    assert "After the last step: test loss" in page
    assert "test_loss" in (tmp_path / "runs.csv").read_text()


def test_a_loss_has_a_target_too() -> None:
    runs = [
        result(arm, seed, step, target=2.0, metric="loss", values=(3.0, 1.5))
        for arm, step in (("none", 800), ("mi", 200))
        for seed in range(6)
    ]
    (cell,) = summarise("study", runs, ["none", "mi"])["cells"]
    assert cell["arms"]["mi"]["steps_to_target"]["median"] == 200
    assert headline(cell).startswith("mi reached 2 on 6 of 6 seeds (median 200 steps), 4.0x the speed of none (")


def test_an_interval_that_the_test_does_not_confirm_shows_nothing() -> None:
    versus = {"n_pairs": 8, "steps_ratio": 1.5, "ci95": [1.1, 1.9], "p_value": 0.2}
    arm = {"n_seeds": 8, "vs_none": versus}
    assert speed_verdict(arm) == "no difference shown"
    versus["p_value"] = 0.01
    assert speed_verdict(arm) == "faster"


@pytest.mark.parametrize(
    ("seeds", "verdict"),
    [
        (2, ": too few seeds to say."),
        (5, ": faster (too few seeds for a test: 5). It ended"),
        (6, ": faster. It ended"),
    ],
)
def test_few_seeds_are_said_to_be_few(seeds: int, verdict: str) -> None:
    runs = [result(arm, seed, step) for arm, step in (("none", 800), ("mi", 100)) for seed in range(seeds)]
    (cell,) = summarise("study", runs, ["none", "mi"])["cells"]
    assert verdict in headline(cell)


def test_that_seeds_are_few_is_said_of_the_first_arm_alone() -> None:
    arms = (("none", 800), ("mi", 100), ("he", 100))
    runs = [result(arm, seed, step) for arm, step in arms for seed in range(2)]
    (cell,) = summarise("study", runs, [arm for arm, _ in arms])["cells"]
    assert headline(cell).endswith(": too few seeds to say.")
    runs += [result(arm, seed, step) for arm, step in arms[:2] for seed in range(2, 6)]
    (cell,) = summarise("study", runs, [arm for arm, _ in arms])["cells"]
    assert headline(cell).endswith(" Too few seeds to say: he.")


@pytest.mark.parametrize(("metric", "scale", "most"), [("f1", 1, 1.0), ("f1", 100, None), ("reward", 1, None)])
def test_an_interval_does_not_leave_the_range_of_its_metric(metric: str, scale: float, most: float | None) -> None:
    rows = [
        {"study": "s", "arm": arm, "seed": seed, "step": 10, metric: scale * (0.7 + 0.2 * seed)}
        for arm in ("none", "mi")
        for seed in range(2)
    ]
    (cell,) = summarise("study", read_curves(rows, metric, "max", None))["cells"]
    assert (cell["arms"]["mi"]["final_metric"]["ci95"][1] == most) == (most is not None)


def test_the_page_names_arms_on_the_left_and_a_single_cell_once(tmp_path: Path) -> None:
    write_study(tmp_path, [result(arm, seed, 100) for arm in ("none", "mi") for seed in range(6)])
    report.report(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert '<p class="verdict">mi reached' in page
    assert '<td class="name">mi</td>' in page


def test_other_arms_are_named_by_their_verdict() -> None:
    (cell,) = summary_of(**{"none": 800, "mi": 100, "lbe": 200, "mi-cka": None, "he": 800, "mi-renyi": 100})["cells"]
    assert headline(cell).endswith(
        "Faster: lbe, mi-renyi. Slower, worse in the end: mi-cka. No difference in speed shown: he."
    )
    (cell,) = summary_of(none=800, mi=100, he=800)["cells"]
    assert headline(cell).endswith(": no difference shown. No difference in speed shown: he.")


def test_without_a_baseline_there_is_no_verdict() -> None:
    (cell,) = summary_of(mi=100)["cells"]
    assert "nothing to compare" in headline(cell)


def test_every_column_is_in_the_markdown() -> None:
    summary = summary_of(none=800, mi=100)
    lines = [line[2:-2] for line in as_markdown(summary).splitlines() if line.startswith("|")]
    header, none, mi = (f"{lines[i]} | {lines[i + 4]}".split(" | ") for i in (0, 2, 3))  # both tables of the cell
    row = dict(zip(header, mi, strict=True))
    assert (row["reached"], row["steps to goal"], row["p"], row["p (Holm)"]) == ("6/6", "100", "0.031", "0.031")
    assert float(row["p (log-rank)"]) < 0.01
    assert row["over none, points [95%]"] == "+0.0 [+0.0, +0.0]"
    assert row["validation accuracy at equal time [95%]"] == "90.0% [90.0, 90.0]"
    assert dict(zip(header, none, strict=True))["p"] == ""


def test_a_column_without_a_word_is_left_out() -> None:
    (cell,) = summary_of(none=800, mi=100)["cells"]
    assert list(comparison(cell))[:3] == ["arm", "learning rate", "reached"]
    cell["target"] = None
    for arm in cell["arms"].values():
        arm["lr"] = arm["steps_to_target"]["median"] = arm["seconds_to_target"]["median"] = None
    cell["arms"]["mi"]["vs_none"] = dict.fromkeys(cell["arms"]["mi"]["vs_none"])
    assert list(comparison(cell)) == ["arm", "test accuracy [95%]", "over none, points [95%]"]


@pytest.mark.browser
def test_the_main_table_fits_a_page_of_1280_pixels(tmp_path: Path) -> None:
    steps = {"none": 800, "target-shuffled": None, "deep-supervision": 100, "mi-label-free": 150}
    runs = [result(arm, seed, step) for arm, step in steps.items() for seed in range(6)]
    write_study(tmp_path, runs)
    report.report(tmp_path)
    with browser_page(viewport={"width": 1280, "height": 900}) as page:
        page.goto((tmp_path / "report.html").as_uri())
        keep_screenshot(page, "report-1280.png")
        main = page.locator(".scroll").first
        assert main.locator("th").nth(1).inner_text() == "learning rate"
        assert main.evaluate("e => e.scrollWidth - e.clientWidth") == 0
        page.set_viewport_size({"width": 400, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") == 400


def test_table_fits_80_columns(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_table(summary_of(**{"none": None, "target-shuffled": 100, "deep-supervision": 475}), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(re.match(r"target-shuffled +6/6 +100 +only with it +0\.031 +88\.0% \[", line) for line in lines)


def test_the_table_names_arms_of_a_file_in_full(capsys: pytest.CaptureFixture[str]) -> None:
    report.print_table(summary_of(**{"none": None, "lab:Norms": 100, "lab:wide": 100}), Console(width=80))
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines if re.match(r"lab:\w+ +6/6", line)] == ["lab:Norms", "lab:wide"]


def test_table_wraps_what_is_wider_and_cuts_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    summary = summary_of(**{"none": None, "last-layer": 100})
    arm = summary["cells"][0]["arms"]["last-layer"]
    arm["n_failed"] = 2
    arm["vs_none"] |= {"steps_ratio": 123.4, "bound": None, "ci95": [100.5, 234.5]}
    report.print_table(summary, Console(width=80))
    text = capsys.readouterr().out
    assert max(map(len, text.splitlines())) <= 80
    assert "…" not in text
    assert all(part in text for part in ("broke)", "123.4x", "234.5]"))


def test_the_chosen_rate_is_in_bold_also_of_a_cell_that_repeats_another_with_fewer_steps() -> None:
    runs = [result("none", seed, None, cell=cell) for cell in ("P1", "P1-60") for seed in range(6)]
    for run in runs[6:]:
        run["spec"]["cell"]["budget_of"] = "P1"
    tried = {"0.02": {"steps": [None], "accuracy": [0.4]}, "0.05": {"steps": [None], "accuracy": [0.5]}}
    tuning = {"P1": {"none": {"lr": 0.02, "tried": tried}}, "P1-60": {"none": {"lr": 0.05, "tried": tried}}}
    text = as_markdown(summarise("study", runs, tuning=tuning))
    assert "| P1 | none | **never (40%)** | never (50%) |" in text
    assert "| P1-60 | none | never (40%) | **never (50%)** |" in text


def test_rates_may_be_chosen_by_any_metric() -> None:
    runs = [result("none", seed, 100) for seed in range(2)]
    tuning = {"cell": {"none": {"lr": 0.1, "tried": {"0.1": {"steps": [100], "f1": [0.5]}}}}}
    assert "| cell | none | **100 (0.5)** |" in as_markdown(summarise("study", runs, tuning=tuning))


@pytest.mark.parametrize(("first", "scale"), [(170.0, "log"), (4.0, "linear")])
def test_a_loss_that_starts_far_above_its_end_has_a_logarithmic_axis(first: float, scale: str) -> None:
    runs = [result("none", seed, 100, target=None, metric="loss", values=(first, 0.5)) for seed in range(6)]
    (cell,) = summarise("study", runs)["cells"]
    axes = Figure().subplots()
    figures.draw_metric(axes, cell, {"none": runs}, figures.lines(["none"]))
    assert axes.get_yscale() == scale


def test_every_run_is_a_row_of_the_csv(study: Path) -> None:
    rows = list(csv.DictReader((study / "runs.csv").read_text().splitlines()))
    assert len(rows) == 2 * len(ARMS) * 6
    row = next(row for row in rows if (row["cell"], row["arm"], row["seed"]) == ("R2", "mi", "2"))
    assert (row["steps_to_goal"], row["test_accuracy"]) == ("150", "0.88")
    assert next(row for row in rows if row["arm"] == "none")["steps_to_goal"] == ""


def test_markdown_has_a_table_per_cell_and_one_of_the_term(study: Path) -> None:
    text = (study / "report.md").read_text()
    assert text.count("| mi | 0.001 | 6/6 |") == 2
    cells, _, rest = text.partition("## Early in training")
    early, _, against = rest.partition("## The term against the other arms")
    assert "| R1 | mi | 14% [11, 90] | 90% [90, 90] | 90% [90, 90] |" in early
    for block in (block for part in (cells, early, against) for block in part.split("\n\n") if block.startswith("|")):
        assert len({line.count("|") for line in block.strip().splitlines()}) == 1
    assert "| R1 | target-shuffled | only mi: 6/6 vs 0/6 | 0.031 |" in against
    assert "<h2>The term against the other arms</h2>" in (study / "report.html").read_text()


def test_page_is_self_contained_and_small(study: Path) -> None:
    page = (study / "report.html").read_text()
    assert len(page) < 3_000_000
    assert "<script" not in page
    loaded = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)|url\(([^)]*)\)|@import", page)
    assert all(link.startswith("#") for pair in loaded for link in pair if link)
    assert "currentColor" in page


def test_charts_are_small_and_their_ticks_whole() -> None:
    def draw(figure: Figure) -> None:
        axes = figure.subplots()
        axes.plot([0.851, 0.87], [0, 1 / 3])
        axes.set_xticks([0.855, 0.865])

    svg, files = figures.drawn(figures.Chart("name", "caption", draw, (4, 3)))
    assert not files
    assert ">0.855<" in svg
    assert not re.search(r'd="[^"]*\d\.\d{3}', svg)


def test_the_main_charts_are_files_legible_on_white_and_black(study: Path) -> None:
    names = {path.name for path in (study / "figures").iterdir()}
    charts = ("R1-accuracy", "R1-reached", "R2-accuracy", "R2-reached")
    assert names == {f"{chart}.{form}" for chart in charts for form in ("png", "svg", "pdf")}
    assert (study / "figures" / "R1-accuracy.pdf").read_bytes().startswith(b"%PDF")
    svg = (study / "figures" / "R1-accuracy.svg").read_text()
    assert figures.GREY in svg
    assert figures.INK not in svg
    with Image.open(study / "figures" / "R1-accuracy.png") as picture:
        assert picture.convert("RGBA").getchannel("A").getpixel((0, 0)) == 0
        assert picture.height < 700  # a screen


def informed(arm: str, **estimates: dict[str, Any]) -> dict[str, Any]:
    run = result(arm, 0, 100) | {"estimates": estimates}
    for point in run["curve"]:
        point["rewarded"] = {f"layers.{i}→target": 0.1 * i for i in range(20)}
    return run


def test_every_estimate_has_its_estimator_floor_and_ceiling_and_no_axis_two_of_them() -> None:
    usable = {"estimator": "usable", "samples": 128, "floor": 0.011, "ceiling": 2.3}
    runs = {
        "mi": [informed("mi", rewarded=usable, mi=usable)],
        "mi-gaussian": [informed("mi-gaussian", rewarded={"estimator": "gaussian"}, mi={"estimator": "gaussian"})],
    }
    (cell,) = summarise("study", [run for of in runs.values() for run in of])["cells"]
    drawn = {}
    for chart in figures.cell_charts(cell, runs, figures.lines(["none", "mi", "mi-gaussian"])):
        figure = Figure()
        chart.draw(figure)
        drawn[chart.name] = figure.axes[0]
    assert {"cell-weakest-link-usable", "cell-weakest-link-gaussian", "cell-rewarded-mi"} < set(drawn)
    title = "usable information, usable estimator on 128 samples\nfloor 0.01, ceiling 2.30"
    assert drawn["cell-weakest-link-usable"].get_title(loc="left") == title
    assert drawn["cell-rewarded-mi"].get_title(loc="left") == title
    assert drawn["cell-rewarded-mi-gaussian"].get_title(loc="left").endswith("floor not measured, ceiling not measured")
    assert [len(drawn[f"cell-weakest-link-{name}"].lines) for name in ("usable", "gaussian")] == [1, 1]
    assert len(drawn["cell-rewarded-mi"].lines) == figures.LAYERS


def test_arms_whose_floors_differ_share_an_axis() -> None:
    known = {"estimator": "kde", "samples": 128, "ceiling": 4.85}
    floors = {"none": 0.2, "mi": -0.04}
    runs = {arm: [informed(arm, mi={**known, "floor": floor})] for arm, floor in floors.items()}
    (cell,) = summarise("study", [run for of in runs.values() for run in of])["cells"]
    (chart,) = [c for c in figures.cell_charts(cell, runs, figures.lines(["none", "mi"])) if "weakest" in c.name]
    figure = Figure()
    chart.draw(figure)
    assert len(figure.axes[0].lines) == 2
    assert figure.axes[0].get_title(loc="left").endswith("\nfloor -0.04 to 0.20, ceiling 4.85")


def test_latex_has_the_same_table_as_the_page(study: Path) -> None:
    text = (study / "tables.tex").read_text()
    assert text.count(r"\toprule") == text.count(r"\bottomrule") == 2
    assert r"mi & 0.001 & 6/6 & 162 & only with it: 6/6 vs 0/6 & 0.031 & 0.3 & 88.0\% [88.0, 88.0] & +53.0 [" in text
    assert not re.search(r"(?<!\\)%(?! )", text)


def test_a_large_study_stays_under_3_mb(tmp_path: Path) -> None:
    arms = ["none", "mi", "lbe"] + [f"arm-{i}" for i in range(12)]
    runs = [result("none", seed, 100, cell="R1", steps=6000) | {"arm": arm} for arm in arms for seed in range(2)]
    write_study(tmp_path, runs)
    report.report(tmp_path)
    assert 13 * (tmp_path / "report.html").stat().st_size < 3_000_000


def test_names_are_escaped(tmp_path: Path) -> None:
    run = result("none", 0, None) | {"failure": None}
    run["spec"]["cell"]["model_options"] = {"activation": "<script>alert(1)</script>"}
    write_study(tmp_path, [run])
    report.report(tmp_path)
    assert "<script" not in (tmp_path / "report.html").read_text()


def test_command_line_says_what_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["eval.report", str(tmp_path)])
    assert command.main() == 2
    assert "holds neither finished runs nor TensorBoard scalars" in capsys.readouterr().err


def test_command_line_names_a_damaged_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_study(tmp_path, [result("none", 0, None)])
    (tmp_path / "runs" / "cell" / "none" / "seed-0" / "result.json").write_text("{")
    monkeypatch.setattr("sys.argv", ["eval.report", str(tmp_path)])
    assert command.main() == 2
    assert "seed-0/result.json is damaged: give the study's command again" in capsys.readouterr().err


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("device", "width"), [("desktop", 1280), ("phone", 390)])
def test_page_in_a_browser(study: Path, scheme: str, device: str, width: int) -> None:
    with browser_page(viewport={"width": width, "height": 900}, color_scheme=scheme) as page:
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        page.goto((study / "report.html").as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width  # nothing sticks out
        assert page.locator("figure svg").count() == 2 * 6
        assert page.locator("figure svg").first.bounding_box()["width"] > 300
        ink, paper = page.evaluate(
            "[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]"
        )
        assert contrast(ink, paper) > 7
        assert (luminance(paper) < 0.1) == (scheme == "dark")
        keep_screenshot(page, f"report-{scheme}-{device}.png")
        page.emulate_media(media="print")
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        assert page.evaluate("getComputedStyle(document.querySelector('table')).fontSize") == "7px"
    assert all(url.startswith("file:") for url in requests)


def contrast(first: str, second: str) -> float:
    """Contrast ratio of two colours, from 1 to 21 (WCAG 2)."""
    low, high = sorted((luminance(first), luminance(second)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(c) / 255 for c in re.findall(r"\d+", colour)[:3]]
    red, green, blue = (c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
