"""SIGReg: layers that look isotropic and normal from every direction."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import nn

import models
from mireg.ablation.arms import Term
from mireg.ablation.arms.sigreg import SIGReg, epps_pulley
from tests.ablation.arms.small import X, added_by, network, reached

COLLAPSED = math.sqrt(2 * math.pi) * (1 - 2 / math.sqrt(2) + 1 / math.sqrt(3))
"""The integral for samples that are all 0, whose characteristic function is 1."""


def test_epps_pulley_by_hand() -> None:
    assert epps_pulley(torch.zeros(10, 1), 8).item() == pytest.approx(COLLAPSED, rel=2e-3)
    assert epps_pulley(torch.zeros(10, 1), 100).item() == pytest.approx(COLLAPSED, rel=1e-5)
    spread = torch.tensor([[-1.0], [1.0]])  # characteristic function cos t
    t = torch.linspace(-5, 5, 10001, dtype=torch.float64)
    normal = (-t.square() / 2).exp()
    wanted = torch.trapezoid((t.cos() - normal).square() * normal, t)
    assert epps_pulley(spread, 100).item() == pytest.approx(wanted.item(), rel=1e-4)


def test_the_8_positive_points_are_the_17_of_the_paper() -> None:
    samples = torch.randn(30, 3, dtype=torch.float64) + 1
    t = torch.linspace(-5, 5, 17, dtype=torch.float64)
    normal = (-t.square() / 2).exp()
    phi = torch.exp(1j * samples[..., None] * t).mean(0)
    wanted = torch.trapezoid((phi - normal).abs().square() * normal, t)
    torch.testing.assert_close(epps_pulley(samples, 8).double(), wanted, rtol=1e-5, atol=0)


def test_normal_samples_score_lower_than_others() -> None:
    torch.manual_seed(0)
    normal = torch.randn(2000, 4)
    assert epps_pulley(normal, 8).max() < 0.01
    for other in (3 * normal, normal + 1, normal.sign(), 0.1 * normal):
        assert epps_pulley(other, 8).min() > 0.02


def test_collapsed_layers_by_hand_with_a_finite_gradient() -> None:
    term = SIGReg(module := network(3), Term(), X[:2])
    for layer in module.layers:
        nn.init.zeros_(layer[0].weight)
        nn.init.zeros_(layer[0].bias)
    added = added_by(term)
    assert added.item() == pytest.approx(0.2 * COLLAPSED, rel=2e-3)
    added.backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_the_gradient_reaches_every_layer() -> None:
    term = SIGReg(module := network(4), Term(), X[:2])
    assert reached(term, module) == [True] * 4
    assert list(term.values()) == [f"layers.{index}" for index in range(4)]


def test_directions_are_the_step_s_alone_and_resume() -> None:
    term = SIGReg(network(), Term(), X[:2])
    state = torch.get_rng_state()
    first, second = added_by(term), added_by(term)
    assert torch.equal(torch.get_rng_state(), state)
    assert first != second
    resumed = SIGReg(network(), Term(), X[:2])
    resumed.load_state_dict({"step": 1})
    assert torch.equal(added_by(resumed), second)
    assert resumed.state_dict() == term.state_dict() == {"step": 2}


def test_maps_are_averaged_over_positions() -> None:
    module: Any = models.build("cnn", {"depth": 2, "width": 4}, (1, 8, 8), 3)
    term = SIGReg(module, Term(), X[:2])
    added_by(term).backward()
    assert module.layers[0][0].weight.grad.any()
