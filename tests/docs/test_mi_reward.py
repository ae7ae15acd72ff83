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
from mireg import balance, kept, term, turns
from mireg.estimators import usable
from mireg.schedules import Constant

STEPS, ROWS = 8, 24


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
    return nn.Sequential(*parts, nn.Linear(widths[-1], 4)).double()


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(ROWS, 8, generator=generator, dtype=torch.float64)
    return x, (x[:, 0] > 0).long() + 2 * (x[:, 1] > 0).long()


NETWORKS = {
    "tanh": ((8, 16, 12), nn.Tanh),
    "deep sigmoid": ((8, 12, 12, 12, 12), nn.Sigmoid),
    "wider than the batch": ((8, 40, 10, 40), nn.Softplus),
}


@pytest.mark.parametrize("supervised", [True, False], ids=["target", "label-free"])
@pytest.mark.parametrize("name", NETWORKS)
def test_loss_and_gradients(oracle: ModuleType, name: str, supervised: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(turns, "GROWS", 2)  # so that they grow within these steps
    monkeypatch.setattr(oracle, "TURN_GROWS", 2)
    plain = mlp(*NETWORKS[name])
    model = mireg.wrap(mlp(*NETWORKS[name]), weight=Constant(1.5))
    reward = oracle.Reward()
    for step in range(STEPS):
        x, y = batch(step)
        target = y if supervised else None
        logits, layers = oracle.outputs(plain, x)
        task = cross_entropy(logits, y)
        expected = task + reward(layers, target, task, 1.5)
        loss = cross_entropy(model(x), y) + model.mi_loss(target)
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
        for each, whole in ((plain, expected), (model, loss)):
            each.zero_grad()
            whole.backward()
        for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
            torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-5, atol=1e-5)
        with torch.no_grad():
            for ours, theirs in zip(model.parameters(), plain.parameters(), strict=True):
                assert theirs.grad is not None
                ours.sub_(0.3 * theirs.grad)  # both from the same weights at every step
                theirs.sub_(0.3 * theirs.grad)
    assert len(model.mi_terms()) == (len(layers) if supervised else 0) + len(layers) - 1  # each had its turn
    assert any(share > 0 for share in oracle.share_lost(reward.kept))
    assert reward.m != 1


def test_constants(oracle: ModuleType) -> None:
    for module in (term, kept, balance, usable):
        for name in vars(module).keys() & vars(oracle).keys():
            if name.isupper():
                assert getattr(oracle, name) == getattr(module, name), name
    options = usable.Usable.reward_options
    assert (options["ridge"], options["shared_noise"]) == (oracle.RIDGE, oracle.SHARED_NOISE)
    assert usable.Usable().noise_floor == oracle.FLOOR
    assert (usable.Usable.certain, turns.GROWS) == (oracle.CERTAIN, oracle.TURN_GROWS)


def test_trains(oracle: ModuleType) -> None:
    assert oracle.train(0.0, 3) < 0.4
    assert oracle.train(4.0, 3) < 0.4
