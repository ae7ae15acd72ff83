"""The dispersive loss."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from mireg.ablation.arms import Term
from mireg.ablation.arms.dispersive import DispersiveLoss, dispersion
from tests.ablation.arms.small import X, added_by, hidden, network, reached


def test_dispersion_by_hand() -> None:
    rows = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])  # squared distances 1, 4 and 5
    wanted = math.log((math.exp(-1) + math.exp(-4) + math.exp(-5)) / 3)
    assert dispersion(rows, 0.5).item() == pytest.approx(wanted)
    assert dispersion(torch.ones(4, 2), 0.5).item() == 0
    assert dispersion(rows.reshape(3, 1, 2), 0.5) == dispersion(rows, 0.5)


def test_far_samples_do_not_underflow() -> None:
    rows = (1e3 * torch.eye(4)).requires_grad_()
    value = dispersion(rows, 0.5)
    assert value.item() == pytest.approx(-2e6 / 2)
    value.backward()
    assert rows.grad is not None
    assert rows.grad.isfinite().all()


def test_it_acts_a_quarter_into_the_network() -> None:
    term = DispersiveLoss(module := network(8), Term(), X[:2])
    assert added_by(term).item() == pytest.approx(0.5 * dispersion(hidden(module)[1], 0.5).item())
    assert list(term.values()) == ["layers.1"]
    assert term.verdict == "disperses layers.1"
    assert reached(term, module) == [True, True, *[False] * 6]


def test_its_step_disperses() -> None:
    term = DispersiveLoss(module := network(2), Term(), X[:2])
    before = added_by(term)
    before.backward()
    with torch.no_grad():
        for p in module.parameters():
            p -= 0 if p.grad is None else p.grad
    assert added_by(term) < before


def test_equal_rows_have_a_finite_gradient_and_one_row_none() -> None:
    term = DispersiveLoss(module := network(4), Term(), X[:2])
    nn.init.zeros_(module.layers[0][0].weight)
    added_by(term).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())
    term.model(X[:1])
    assert term(torch.ones(()), None) == 0
