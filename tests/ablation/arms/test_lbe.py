"""Layerwise batch entropy."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import models
from mireg.ablation.arms import Term
from mireg.ablation.arms.lbe import LayerwiseBatchEntropy, batch_entropy
from mireg.ablation.errors import UserError
from tests.ablation.arms.small import X, Y, added_by, loss_of, network


def test_entropy_by_hand() -> None:
    layer = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # variances 2 and 0
    assert batch_entropy(layer).item() == pytest.approx(math.log(2 * math.pi * math.e + 1) / 4)


def test_every_place_of_a_map_is_a_unit() -> None:
    maps = torch.randn(5, 2, 3, 3)
    assert torch.equal(batch_entropy(maps), batch_entropy(maps.flatten(1)))


@pytest.mark.parametrize(("alpha", "wanted"), [(0.5, 0.5), (-0.5, 0.5), (0.1, 0.2)])
def test_loss_by_hand(alpha: float, wanted: float) -> None:
    module = network(2)
    term = LayerwiseBatchEntropy(module, Term(), X[:2], beta=0.1, alpha=alpha)
    first = module.layers[0](X.flatten(1))
    second = module.layers[1](first)
    task = cross_entropy(module.head(second), Y)
    penalty = sum(0.1 * (batch_entropy(layer) - wanted) ** 2 for layer in (first, second)) / 2
    assert loss_of(term).item() == pytest.approx((task * (1 + penalty)).item(), rel=1e-6)


def test_collapsed_layers_have_a_finite_gradient() -> None:
    term = LayerwiseBatchEntropy(module := network(), Term(), X[:2])
    nn.init.zeros_(module.layers[1][0].weight)
    loss_of(term).backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in (*module.parameters(), *term.parameters()))


def test_alphas_are_trained_beside_the_weights() -> None:
    term = LayerwiseBatchEntropy(module := network(), Term(), X[:2])
    (alphas,) = term.parameters()
    assert alphas.tolist() == [2.0] * 3
    assert not any("alpha" in key for key in module.state_dict())
    loss_of(term).backward()
    assert (alphas.grad != 0).all()


def test_making_it_changes_nothing() -> None:
    module = models.build("mlp", {"depth": 3, "width": 6, "batchnorm": True}, (1, 8, 8), 3)
    before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    LayerwiseBatchEntropy(module, Term(), X[:2])
    assert module.training
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())


def test_it_resumes() -> None:
    term, resumed = (LayerwiseBatchEntropy(network(), Term(), X[:2]) for _ in range(2))
    with torch.no_grad():
        term.parameters()[0].add_(1)
    assert added_by(resumed) != added_by(term)
    resumed.load_state_dict(term.state_dict())
    assert torch.equal(added_by(resumed), added_by(term))


def test_a_network_without_hidden_layers() -> None:
    with pytest.raises(UserError, match="the arm does not apply, no hidden layers were found"):
        LayerwiseBatchEntropy(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)), Term(), X[:2])
