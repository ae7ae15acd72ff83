"""The cells of the study can be run: every network builds, its layers are found, and every arm applies to it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import models
import train
from eval.cells import CONVERGENCE
from mireg.ablation.arms import ARMS
from mireg.ablation.command import shipped
from mireg.ablation.training.recipe import hidden_matrices
from mireg.layers import Taps

CELLS = {cell.name: cell for cell in CONVERGENCE.cells}
RESCUED_OR_HEALTHY = [name for name in CELLS if name[0] in "RH"]
RECIPES = [name for name in CELLS if name[0] == "P" and "-" not in name]
LAYERS = {"R1": 10, "R2": 20, "R3": 30, "R4": 100, "R5": 64, "R6": 15} | {
    "H1": 30,
    "H2": 30,
    "H3": 30,
    "H4": 15,
    "H7": 3,
}


@pytest.mark.parametrize("name", RESCUED_OR_HEALTHY)
def test_layers_of_the_convergence_study(name: str) -> None:
    cell = CELLS[name]
    taps = Taps(models.build(cell.model, cell.model_options, (1, 28, 28), 10).eval())
    with torch.no_grad():
        taps.run(torch.randn(4, 1, 28, 28))
    assert len(taps.chain) == 1 + LAYERS[name] if name in LAYERS else len(taps.chain) >= 5


@pytest.mark.parametrize("name", RESCUED_OR_HEALTHY)
def test_arms_of_the_convergence_study(name: str) -> None:
    cell = CELLS[name]
    arms = CONVERGENCE.arms_of(cell)
    assert arms[:2] == ("none", "mi")
    assert {"target-shuffled", "deep-supervision"} < set(arms)
    for arm in arms:
        changed = ARMS[arm].model_options
        assert set(changed) <= set(models.options(cell.model))
        assert not changed or changed.items() - cell.model_options.items(), f"{arm} changes nothing"
    heavy = name in ("R6", "H4", "H5", "H6")
    assert CONVERGENCE.seeds_of(cell) == (5 if heavy else 10)
    steps = {spec.cell.steps for spec in CONVERGENCE.tuning_runs(cell)}
    assert steps == {cell.steps // 2 if heavy else cell.steps}


def test_size_of_the_convergence_study() -> None:
    assert [cell.steps for cell in CONVERGENCE.cells if not cell.budget_of] == [
        *(400, 400, 300, 300, 300, 400, 400, 300, 300),
        *(6000, 1500, 1500, 1000, 1500, 600),
        *(1000, 1000, 1000, 600, 300, 600, 1000),
        *(400, 400, 400, 600, 1500, 300, 300),
    ]
    runs = [*CONVERGENCE.runs(), *(spec for cell in CONVERGENCE.cells for spec in CONVERGENCE.tuning_runs(cell))]
    assert len({spec.path for spec in runs}) == len(runs)
    assert not {spec.seed for spec in runs if spec.tuning} & {spec.seed for spec in runs if not spec.tuning}


SHAPES: dict[str, tuple[Any, int]] = {
    "cifar10": ((3, 32, 32), 10),
    "fashion-mnist": ((1, 28, 28), 10),
    "diabetes": ((10,), 1),
    "cora": (((9,), (4,)), 7),
}


@pytest.mark.parametrize("name", [name for name in CELLS if name[0] == "N"])
def test_every_arm_of_a_natural_cell_builds_at_its_own_rate(name: str) -> None:
    cell = CELLS[name]
    assert not CONVERGENCE.is_tuned(cell)
    assert not CONVERGENCE.tuning_runs(cell)
    arms = CONVERGENCE.arms_of(cell)
    assert arms[:5] == ("none", "mi", "mi-label-free", "target-shuffled", "deep-supervision")
    for spec in replace(CONVERGENCE, cells=(cell,)).runs():
        assert spec.lr == cell.lr
        changed = ARMS[spec.arm].model_options
        assert not changed or changed.items() - cell.model_options.items(), f"{spec.arm} changes nothing"
    for arm in arms:
        trained = cell.as_trained(arm)
        models.build(trained.model, trained.model_options, *SHAPES[cell.dataset])


def test_train_offers_the_study_and_the_package_does_not() -> None:
    assert train.catalogue().presets["convergence"] is CONVERGENCE
    assert "convergence" not in shipped().presets


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_decays_to_the_end_of_every_budget(name: str) -> None:
    cell = CELLS[name]
    assert (cell.schedule, cell.target) == ("cosine", None)
    assert cell.warmup_steps == cell.steps // 10
    assert {"none", "mi", "target-shuffled", "deep-supervision"} <= set(CONVERGENCE.arms_of(cell))
    shorter = [other for other in CONVERGENCE.cells if other.budget_of == name]
    assert [other.steps / cell.steps for other in shorter] == pytest.approx([0.6, 0.8])
    for other in shorter:
        assert CONVERGENCE.arms_of(other) == ("none",)
        assert (other.model, other.model_options, other.optimizer) == (cell.model, cell.model_options, cell.optimizer)
        assert CONVERGENCE.seeds_of(other) == CONVERGENCE.seeds_of(cell)


@pytest.mark.parametrize("name", RECIPES)
def test_every_arm_of_a_recipe_applies_to_its_network(name: str) -> None:
    cell = CELLS[name]
    shape, outputs = SHAPES.get(cell.dataset, ((64,), 65))
    inputs = torch.randn(4, *shape) if cell.dataset in SHAPES else torch.randint(65, (4, 64))
    for arm in CONVERGENCE.arms_of(cell):
        trained = cell.as_trained(arm)
        network = models.build(trained.model, trained.model_options, shape, outputs)
        if initialise := ARMS[arm].initialise:
            initialise(network, inputs)
        assert trained.optimizer != "muon" or hidden_matrices(network)
    taps = Taps(network.eval())
    with torch.no_grad():
        taps.run(inputs)
    assert len(taps.chain) >= 5
