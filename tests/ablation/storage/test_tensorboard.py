"""What the event files of a study hold, and what TensorBoard's own pages make of them."""

from __future__ import annotations

import contextlib
import re
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mireg.ablation import report
from mireg.ablation.storage.tensorboard import Tracker
from mireg.ablation.study.metric import Metric
from tests.ablation.report.synthetic import result, write_study
from tests.browser import browser_page, keep_screenshot

PAIRS = 10
STEPS = 1000


def track(
    folder: Path,
    arm: str,
    seed: int,
    reached: int | None,
    steps: int = STEPS,
    pairs: int = PAIRS,
    resume_at: int | None = None,
) -> dict[str, Any]:
    """Log a synthetic run as a training run would, and return its result."""
    run = result(arm, seed, reached, steps=steps)
    tracker = Tracker(folder / "runs" / "cell" / arm / f"seed-{seed}", Metric(), resume_at)
    for point in run["curve"]:
        low = min(point["mi"].values())
        point["mi"] = {f"layers.{i}→layers.{i + 1}": low + 2 * (pairs - i) / pairs for i in range(pairs)}
        if arm != "none":
            point["rewarded"] = {f"layers.{i}→target": low / (1 + i) for i in range(pairs)}
        if resume_at is None or point["step"] > resume_at:
            tracker.log(point)
    tracker.close()
    return run


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two arms of two seeds, tracked and reported."""
    folder = tmp_path_factory.mktemp("tracked")
    runs = [
        track(folder, arm, seed, reached) for arm, reached in (("none", None), ("mi-kde", 150)) for seed in range(2)
    ]
    write_study(folder, runs)
    report.report(folder)
    return folder


def events(folder: Path) -> EventAccumulator:
    accumulator = EventAccumulator(str(folder))
    accumulator.Reload()
    return accumulator


def test_arms_share_their_tags(study: Path) -> None:
    runs = study / "runs" / "cell"
    none, mi = (set(events(runs / arm / "seed-0").Tags()["scalars"]) for arm in ("none", "mi-kde"))
    assert mi - none == {"term/share_of_loss", *(f"rewarded/layers.{i}→target" for i in range(PAIRS))}
    assert none < mi
    assert sum(tag.startswith("mi_nats/") for tag in none) == PAIRS


def test_one_run_is_one_directory(study: Path) -> None:
    assert sorted(path.parent.name for path in study.glob("runs/cell/none/**/events.*")) == [
        "seed-0",
        "seed-1",
    ]


def test_what_is_rewarded_has_a_tag_per_layer(study: Path) -> None:
    accumulator = events(study / "runs" / "cell" / "mi-kde" / "seed-1")
    rewarded = accumulator.Scalars("rewarded/layers.3→target")
    assert [event.step for event in rewarded] == list(range(0, STEPS + 1, 25))
    assert rewarded[-1].value == pytest.approx(0.5)


def test_event_files_of_a_deep_network_stay_small(tmp_path: Path) -> None:
    track(tmp_path, "mi", 0, 150, steps=1000, pairs=100)
    assert sum(path.stat().st_size for path in tmp_path.rglob("events.*")) < 5_000_000


def test_logging_is_cheap(tmp_path: Path) -> None:
    run = result("mi", 0, 150)
    tracker = Tracker(tmp_path, Metric(), None)
    point = run["curve"][-1] | {"mi": {f"pair {i}": 1.0 for i in range(PAIRS)}}
    times = []
    for step in range(200):
        began = time.perf_counter()
        tracker.log(point | {"step": step})
        times.append(time.perf_counter() - began)
    tracker.close()
    assert sorted(times)[100] < 0.02 * 25 * 2e-3  # 2% of 25 steps of 2 ms each


def test_resuming_voids_what_was_written_after_the_checkpoint(tmp_path: Path) -> None:
    track(tmp_path, "mi", 0, None)
    track(tmp_path, "mi", 0, 800, resume_at=500)
    accuracy = events(tmp_path / "runs" / "cell" / "mi" / "seed-0").Scalars("validation/accuracy")
    assert [event.step for event in accuracy] == list(range(0, STEPS + 1, 25))
    assert accuracy[-1].value == pytest.approx(0.9)


@pytest.fixture(scope="module")
def server(study: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of a TensorBoard on the study's runs; it finds a free port itself."""
    # Not urlopen: it keeps the proxy of its first call, which another test's dead one may have been.
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    log = tmp_path_factory.mktemp("server") / "log"
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(study / "runs"), "--port", "0"]
    with log.open("wb") as output:
        process = subprocess.Popen([*command, "--host", "127.0.0.1"], stdout=output, stderr=output)
    try:
        deadline, answer = time.monotonic() + 180, b""
        while answer.count(b"seed-") != 4:
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, f"{answer!r} from\n{log.read_text()}"
            time.sleep(0.3)
            found = re.search(r"http://127\.0\.0\.1:\d+", log.read_text())
            if found:
                address = found[0]
                with contextlib.suppress(urllib.error.URLError, TimeoutError):
                    answer = direct.open(f"{address}/data/runs", timeout=10).read()
        yield address
    finally:
        process.terminate()
        process.wait()


SHOWN = {
    "scalars": ["mi_nats/000_layers.0→layers.1", "rewarded/layers.0→target", "cell/mi-kde/seed-1"],
}


@pytest.mark.browser
def test_pages_show_the_study(server: str) -> None:
    with browser_page(viewport={"width": 1800, "height": 1000}) as page:
        requests = []
        page.on("request", lambda request: requests.append(request.url))
        for tab, texts in SHOWN.items():
            page.goto(f"{server}/#{tab}")
            page.reload()
            for text in texts:
                page.get_by_text(text, exact=True).first.wait_for(timeout=30_000)
            page.locator("tf-line-chart-data-loader, vz-line-chart2, tf-scalar-card").first.wait_for()
            page.wait_for_timeout(700)  # charts fade in
            keep_screenshot(page, f"tensorboard-{tab}.png")
    assert all(url.startswith((server, "data:", "blob:")) for url in requests)


@pytest.mark.browser
def test_runs_are_coloured_by_arm(server: str) -> None:
    pattern = urllib.parse.quote("regex:/([^/]+)/seed-", safe="")  # as in docs/study.md
    with browser_page(viewport={"width": 1400, "height": 900}) as page:
        page.goto(f"{server}/?runColorGroup={pattern}#timeseries")
        colours: dict[str, set[str]] = {}
        for arm in ("none", "mi-kde"):
            for seed in range(2):
                row = page.locator("runs-data-table tb-data-table-content-row", has_text=f"cell/{arm}/seed-{seed}")
                swatch = row.locator("button.run-color-swatch").first
                swatch.wait_for(timeout=30_000)
        page.wait_for_timeout(2000)  # runs are grouped after they are listed
        for arm in ("none", "mi-kde"):
            for seed in range(2):
                row = page.locator("runs-data-table tb-data-table-content-row", has_text=f"cell/{arm}/seed-{seed}")
                swatch = row.locator("button.run-color-swatch").first
                colours.setdefault(arm, set()).add(swatch.evaluate("e => getComputedStyle(e).backgroundColor"))
        keep_screenshot(page, "tensorboard-arms.png")
    assert [len(found) for found in colours.values()] == [1, 1]
    assert colours["none"] != colours["mi-kde"]
