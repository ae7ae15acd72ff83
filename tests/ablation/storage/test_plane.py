"""The information plane over training: when it is measured, and what its figure shows."""

from __future__ import annotations

from pathlib import Path

import pytest

from mireg.ablation.arms import Term
from mireg.ablation.report.figures import planes_of
from mireg.ablation.storage.plane import draw_planes, has_plane
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.training.loop import looks_inside
from tests.ablation.report.synthetic import result
from tests.ablation.running import run

CELL = Cell("cell", "digits", "mlp", 0.8, 300, {"depth": 3, "width": 8})


def looked_at(arm: str, *, tuning: bool = False) -> list[int]:
    curve: list[dict[str, object]] = []
    spec = RunSpec(CELL, arm, 0, Term(), tuning)
    for step in range(0, CELL.steps + 1, 25):
        curve.append({"step": step, **({"plane": {}} if looks_inside(spec, step, curve) else {})})
    return [int(str(point["step"])) for point in curve if "plane" in point]


@pytest.mark.parametrize("arm", ["none", "mi", "target-shuffled"])
def test_whenever_the_steps_have_doubled(arm: str) -> None:
    assert looked_at(arm) == [0, 25, 50, 100, 200, 300]


def test_not_in_arms_without_a_reward_nor_in_tuning() -> None:
    assert looked_at("batchnorm") == looked_at("mi", tuning=True) == []


def test_a_run_keeps_a_pair_of_numbers_per_layer(tmp_path: Path) -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 4, {"depth": 3, "width": 8}, eval_every=2)
    curve = run(tmp_path, cell, "mi")["curve"]
    assert has_plane(curve)
    for point in curve:
        assert len(point["plane"]["target"]) == len(point["plane"]["input"]) == 4  # the input and three layers


def test_the_figure_has_a_panel_per_run_in_nats() -> None:
    curve = [{"step": step, "plane": {"target": [0.5, 0.1, None], "input": [9.0, 1.0, 0.5]}} for step in (0, 25)] + [
        {"step": 30}
    ]
    figure = draw_planes({"R3: none, seed 1": curve, "R3: mi, seed 1": curve})
    assert [axes.get_title() for axes in figure.axes] == ["R3: none, seed 1", "R3: mi, seed 1"]
    assert "nats" in figure.axes[0].get_ylabel()
    assert "nats" in figure.get_supxlabel()
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["step 0", "step 25"]


def test_side_by_side_are_runs_of_one_seed() -> None:
    runs = {arm: [result(arm, seed, 100) for seed in (1, 2)] for arm in ("none", "mi")}
    plane = {"target": [0.5], "input": [9.0]}
    for arm, seed in (("none", 0), ("none", 1), ("mi", 1)):
        runs[arm][seed]["curve"][0]["plane"] = plane
    assert list(planes_of({"cell": "cell"}, runs)) == ["cell: none, seed 2", "cell: mi, seed 2"]
    assert planes_of({"cell": "cell"}, {"batchnorm": []}) == {}
