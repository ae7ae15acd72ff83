"""Diagnostics taken during a run: they change nothing, and see what a step does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from mireg.ablation.arms import Term
from mireg.ablation.arms.loss_term import NoTerm
from mireg.ablation.study.config import Cell
from mireg.ablation.training.diagnose import diagnose
from tests.ablation.running import DIGITS, build, run

SEEDED = ("step", "validation_accuracy", "loss", "mi", "term_share")
"""What the seed alone decides of a point; times do not."""


def cell(**changes: Any) -> Cell:
    options = {"depth": 4, "width": 16, "batchnorm": True}
    return Cell("cell", "digits", "mlp", 0.8, 20, model_options=options, batch_size=32, eval_every=10, **changes)


@pytest.mark.parametrize("arm", ["none", "mi", "target-shuffled", "lbe"])
def test_a_run_is_the_same_with_and_without(tmp_path: Path, arm: str) -> None:
    plain, diagnosed = run(tmp_path / "plain", cell(), arm), run(tmp_path / "diagnosed", cell(diagnostics=True), arm)
    for a, b in zip(plain["curve"], diagnosed["curve"], strict=True):
        assert [a[key] for key in SEEDED] == [b[key] for key in SEEDED]
    assert plain["test_accuracy"] == diagnosed["test_accuracy"]
    assert len(diagnosed["curve"][0]["diagnostics"]) >= 6 * 3 + 2


def test_a_larger_step_moves_features_and_gradients_more() -> None:
    found = []
    for lr in (1e-4, 1e-2):
        torch.manual_seed(0)
        network = build(cell(), DIGITS)
        found.append(
            diagnose(NoTerm(network, Term(), torch.empty(0)), torch.optim.SGD(network.parameters(), lr), DIGITS, 32, 64)
        )
    small, large = found
    for tag in ("feature_drift", "alignment_drift", "covariate_shift_l2"):
        assert 0 < small[f"diagnostics_{tag}/layer_004"] < large[f"diagnostics_{tag}/layer_004"]
    assert small["diagnostics_gradient_norm/layer_004"] == large["diagnostics_gradient_norm/layer_004"]
    assert 0 < small["diagnostics_effective_parameters/share"] < 1
