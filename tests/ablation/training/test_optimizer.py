"""Learning rates that fall towards the input."""

from __future__ import annotations

from typing import Any

import pytest
from torch import nn

from mireg.ablation.errors import UserError
from mireg.ablation.study.config import Cell
from mireg.ablation.training.recipe import make_optimizer

NETWORK = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def cell(**changes: Any) -> Cell:
    return Cell("cell", "digits", "mlp", 0.8, 20, lr=1e-2, **changes)


@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_each_layer_towards_the_input_learns_that_much_slower(optimizer: str) -> None:
    groups = make_optimizer(NETWORK, cell(optimizer=optimizer, lr_divisor=2.0), "none").param_groups
    assert [group["lr"] for group in groups] == [2.5e-3, 5e-3, 1e-2]
    assert [len(group["params"]) for group in groups] == [4, 2, 2]


def test_without_a_divisor_all_learn_alike() -> None:
    (group,) = make_optimizer(NETWORK, cell(), "none").param_groups
    assert (group["lr"], len(group["params"])) == (1e-2, 8)


def test_a_divisor_below_one_is_refused() -> None:
    with pytest.raises(UserError, match=r"lr_divisor=0\.5"):
        cell(lr_divisor=0.5)
