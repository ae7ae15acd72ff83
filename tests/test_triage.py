"""Which networks the term is for."""

from __future__ import annotations

import copy
import pickle

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg
from mireg import regularizer
from mireg.layers import Taps
from mireg.regularizer import MIRegularizer, for_training
from mireg.schedules import Linear, Rescue
from mireg.triage import dead_pairs
from models import build

X, Y = torch.rand(32, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(32) % 10

DEAD = [
    {"depth": 10, "width": 64, "activation": "sigmoid", "init": "orthogonal"},
    {"depth": 20},
    {"depth": 20, "activation": "tanh"},
]
ALIVE = [
    {"depth": 2},
    {"depth": 20, "init": "he"},
    {"depth": 20, "batchnorm": True},
    {"depth": 20, "batchnorm": True, "residual": True},
    {"depth": 20, "init": "looks-linear"},
]


def network(options: dict[str, object]) -> nn.Module:
    torch.manual_seed(0)
    return build("mlp", options, (1, 8, 8), 10)


def gradients(net: nn.Module, loss: Tensor) -> list[Tensor]:
    return list(torch.autograd.grad(loss, list(net.parameters())))


@pytest.mark.parametrize("options", DEAD, ids=str)
def test_a_dead_network_gets_the_term(options: dict[str, object]) -> None:
    model = mireg.wrap(network(options))
    assert model.regularizer.needed is None
    model(X)
    assert model.mi_loss().requires_grad
    assert model.regularizer.needed is True
    assert model.regularizer.active


@pytest.mark.parametrize("options", ALIVE, ids=str)
def test_a_network_that_is_alive_is_left_as_it_is(options: dict[str, object]) -> None:
    net = network(options)
    bare = copy.deepcopy(net)
    model = mireg.wrap(net)
    before = torch.random.get_rng_state()
    for step in range(3):
        loss = cross_entropy(model(X), Y) + model.mi_loss()
        plain = cross_entropy(bare(X), Y)
        assert torch.equal(loss, plain)
        assert all(map(torch.equal, gradients(net, loss), gradients(bare, plain)))
        assert model.regularizer.needed is False
        assert not model.regularizer.captures, step
    assert torch.equal(torch.random.get_rng_state(), before)
    assert next(iter(model.mi_terms())).startswith("input→")  # what it was judged by


def test_a_weight_of_ones_own_is_always_used() -> None:
    for weight in (0.5, Linear(1.0, 200)):
        model = mireg.wrap(network(ALIVE[1]), weight=weight)
        model(X)
        assert model.mi_loss().requires_grad


def test_the_verdict_is_kept_in_copies_and_checkpoints() -> None:
    model = mireg.wrap(network(ALIVE[1]))
    model(X)
    model.mi_loss()
    resumed = mireg.wrap(network(ALIVE[1]))
    resumed.regularizer.load_state_dict(model.regularizer.state_dict())
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)), resumed):
        assert twin.regularizer.needed is False
        assert not twin.regularizer.captures


def test_the_control_is_judged_by_the_same_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[list[Tensor]] = []
    monkeypatch.setattr(regularizer, "is_needed", lambda rows: seen.append(rows) or True)
    for shuffled in (False, True):
        net = network(DEAD[0])
        term = MIRegularizer(for_training("kde"), Rescue(1.0, 200), shuffled=shuffled)
        term.step(Taps(net).observe(X)[1], net.parameters())
    assert all(map(torch.equal, *seen))


def test_the_schedule_of_the_default() -> None:
    assert [round(Rescue(1.0, 200)(step), 2) for step in (0, 100, 200, 900)] == [1.0, 0.5, 0.0, 0.0]


def test_dead_pairs() -> None:
    x = torch.randn(32, 8, generator=torch.Generator().manual_seed(0))
    faint = 3 + 1e-6 * x  # alive in itself, but nothing comes back through it
    assert dead_pairs([x, x, faint, torch.ones(32, 8)]).tolist() == [False, True, True]
