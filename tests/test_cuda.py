"""On a GPU: the same estimates as on a CPU, and a training whose steps do not wait for the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mireg
from mireg import estimators

pytestmark = pytest.mark.cuda

REWARDED = [name for name, kind in estimators.REGISTRY.items() if kind.is_differentiable and not kind.is_learned]


@pytest.mark.parametrize("name", REWARDED)
def test_an_estimate_is_that_of_the_cpu(name: str) -> None:
    x = torch.randn(128, 16, dtype=torch.float64)
    y = torch.tanh(x @ torch.randn(16, 8, dtype=torch.float64))
    torch.manual_seed(1)
    here = estimators.get(name)(x, y)
    torch.manual_seed(1)
    there = estimators.get(name)(x.cuda(), y.cuda())
    assert there.is_cuda
    torch.testing.assert_close(there.cpu(), here, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", REWARDED)
def test_a_network_trains(name: str) -> None:
    network = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 32), nn.Tanh(), nn.Linear(32, 4)).cuda()
    model = mireg.wrap(network, estimator=name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for _ in range(4):
        x, y = torch.randn(64, 16, device="cuda"), torch.randint(4, (64,), device="cuda")
        loss = cross_entropy(model(x), y) + model.mi_loss(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    assert model.mi_terms()
