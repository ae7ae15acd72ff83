"""Diagnostics taken during a run: they change nothing, and see what a step does."""

from __future__ import annotations

import pytest
import torch

from eval.step import diagnose
from mireg.ablation.arms import Term, arm
from mireg.ablation.arms.loss_term import NoTerm
from mireg.ablation.study.config import Cell
from tests.ablation.running import DIGITS, build

CELL = Cell("cell", "digits", "mlp", 0.8, 20, model_options={"depth": 4, "width": 16, "batchnorm": True})


@pytest.mark.parametrize("name", ["none", "mi", "target-shuffled", "lbe"])
def test_what_is_diagnosed_does_not_change(name: str) -> None:
    torch.manual_seed(0)
    network = build(CELL, DIGITS)
    term = arm(name).term(network, Term(), DIGITS.train.batch(slice(0, 32))[0])
    optimizer = torch.optim.Adam([*network.parameters(), *term.parameters()])
    before = {key: value.clone() for key, value in network.state_dict().items()}
    random = torch.get_rng_state()
    found = diagnose(term, optimizer, DIGITS, 32, 64)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    assert not optimizer.state
    assert len(found) >= 6 * 3 + 2


def test_a_larger_step_moves_features_and_gradients_more() -> None:
    found = []
    for lr in (1e-4, 1e-2):
        torch.manual_seed(0)
        network = build(CELL, DIGITS)
        found.append(
            diagnose(NoTerm(network, Term(), torch.empty(0)), torch.optim.SGD(network.parameters(), lr), DIGITS, 32, 64)
        )
    small, large = found
    for tag in ("feature_drift", "alignment_drift", "covariate_shift_l2"):
        assert 0 < small[f"{tag}/layer_004"] < large[f"{tag}/layer_004"]
    assert small["gradient_norm/layer_004"] == large["gradient_norm/layer_004"]
    assert 0 < small["effective_parameters/share"] < 1
