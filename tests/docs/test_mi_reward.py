"""The library's loss and gradients are those of docs/mi_reward.py."""

from __future__ import annotations

import importlib.util
import sys
from itertools import pairwise
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg

STEPS, ROWS = 5, 24


@pytest.fixture(scope="module")
def oracle() -> ModuleType:
    spec = importlib.util.spec_from_file_location("mi_reward", Path(__file__).parents[2] / "docs" / "mi_reward.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["mi_reward"] = module
    spec.loader.exec_module(module)
    return module


def mlp(widths: tuple[int, ...], activation: type[nn.Module]) -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for before, after in pairwise(widths):
        parts += [nn.Linear(before, after), activation()]
    return nn.Sequential(*parts, nn.Linear(widths[-1], 4))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 8, generator=generator)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


NETWORKS = {
    "tanh": ((8, 16, 12), nn.Tanh),
    "deep sigmoid": ((8, 12, 12, 12, 12), nn.Sigmoid),
    "wider than the batch": ((8, 40, 10, 40), nn.Softplus),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients(oracle: ModuleType, name: str) -> None:
    plain = mlp(*NETWORKS[name])
    model = mireg.wrap(mlp(*NETWORKS[name]), weight=1.5)
    reward = oracle.Reward()
    for step in range(STEPS):
        x, y = batch(step)
        logits, layers = oracle.outputs(plain, x)
        task = cross_entropy(logits, y)
        expected = task + reward(layers, y, task, 1.5)
        loss = cross_entropy(model(x), y) + model.mi_loss(y)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for each, whole in ((plain, expected), (model, loss)):
            each.zero_grad()
            whole.backward()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-4, atol=1e-5)
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
                assert theirs.grad is not None
                ours.sub_(0.1 * theirs.grad)  # both from the same weights at every step
                theirs.sub_(0.1 * theirs.grad)
    assert len(model.mi_terms()) == len(layers)  # each had its turn


def test_trains(oracle: ModuleType) -> None:
    assert oracle.train(0.0, 3) < 0.4
    assert oracle.train(4.0, 3) < 0.4
