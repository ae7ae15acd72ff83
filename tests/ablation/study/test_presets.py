"""The named studies can be run: every network builds, and its layers are found."""

from __future__ import annotations

import pytest
import torch

import models
from mireg.ablation.arms import ARMS
from mireg.ablation.study.presets import PRESETS
from mireg.layers import Taps

CONVERGENCE = PRESETS["convergence"]
CELLS = {cell.name: cell for cell in CONVERGENCE.cells}
LAYERS = {"R1": 10, "R2": 20, "R3": 30, "R4": 100, "R5": 64, "R6": 15, "R7": 500} | {
    "H1": 30,
    "H2": 30,
    "H3": 30,
    "H4": 15,
    "H7": 3,
}


@pytest.mark.parametrize("name", CELLS)
def test_layers_of_the_convergence_study(name: str) -> None:
    cell = CELLS[name]
    taps = Taps(models.build(cell.model, cell.model_options, (1, 28, 28), 10).eval())
    with torch.no_grad():
        taps.run(torch.randn(4, 1, 28, 28))
    assert len(taps.chain) == 1 + LAYERS[name] if name in LAYERS else len(taps.chain) >= 5


@pytest.mark.parametrize("name", CELLS)
def test_arms_of_the_convergence_study(name: str) -> None:
    cell = CELLS[name]
    arms = CONVERGENCE.arms_of(cell)
    assert arms[:2] == ("none", "mi")
    assert {"target-shuffled", "deep-supervision"} < set(arms)
    for arm in arms:
        changed = ARMS[arm].model_options
        assert set(changed) <= set(models.options(cell.model))
        assert not changed or changed.items() - cell.model_options.items(), f"{arm} changes nothing"
    heavy = name in ("R6", "R7", "H4", "H5", "H6")
    assert CONVERGENCE.seeds_of(cell) == (5 if heavy else 10)
    steps = {spec.cell.steps for spec in CONVERGENCE.tuning_runs(cell)}
    assert steps == {cell.steps // 2 if heavy else cell.steps}


def test_size_of_the_convergence_study() -> None:
    assert [cell.steps for cell in CONVERGENCE.cells] == [
        *(6000, 1500, 1500, 1000, 1500, 600, 1000),
        *(1000, 1000, 1000, 600, 300, 600, 1000),
    ]
    runs = [*CONVERGENCE.runs(), *(spec for cell in CONVERGENCE.cells for spec in CONVERGENCE.tuning_runs(cell))]
    assert len({spec.path for spec in runs}) == len(runs)
    assert not {spec.seed for spec in runs if spec.tuning} & {spec.seed for spec in runs if not spec.tuning}
