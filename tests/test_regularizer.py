"""A reward whose estimator learns while the network trains; a weight that follows the task's gradient."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)


def train(model: mireg.MIRegularized, optimizer: torch.optim.Optimizer, steps: range) -> list[Tensor]:
    """Losses."""
    losses = []
    for step in steps:
        x, y = batch(step)
        loss = cross_entropy(model(x), y) + model.mi_loss()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.detach())
    return losses


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


def weights(model: mireg.MIRegularized) -> list[Tensor]:
    """Of network and critic."""
    return [p.detach() for p in (*model.parameters(), *model.regularizer.estimator.parameters())]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def test_critic_follows_a_network_that_stands_still() -> None:
    model = mireg.wrap(network(), estimator="infonce", weight=0.5)
    before = [p.clone() for p in model.parameters()]
    read = []
    for step in range(300):
        model(batch(step)[0])
        model.mi_loss().backward()
        read.append(torch.stack(list(model.mi_terms().values())))
    assert_equal(before, [p.detach() for p in model.parameters()])
    first, last = torch.stack(read[:10]).mean(0), torch.stack(read[-10:]).mean(0)
    assert (first < 1).all()
    assert (last > first + 1).all()


def test_critic_rests_where_no_layer_trains() -> None:
    net = network()
    for parameter in net[:4].parameters():
        parameter.requires_grad_(False)
    model = mireg.wrap(net, estimator="infonce", weight=0.5)
    model(batch(0)[0])
    with pytest.warns(UserWarning, match="no layer that it sees depends on a trained parameter"):
        assert not model.mi_loss().requires_grad
    assert model.mi_terms() == {}


def test_critic_is_no_part_of_the_network() -> None:
    model = mireg.wrap(network(), estimator="infonce")
    train(model, adam(model), range(2))
    assert list(model.state_dict()) == list(network().state_dict())
    assert len(list(model.parameters())) == len(list(network().parameters()))


def test_term_reaches_the_layers() -> None:
    model = mireg.wrap(network(), estimator="infonce", weight=0.5)
    train(model, adam(model), range(4))
    model(batch(4)[0])
    model.zero_grad()
    model.mi_loss().backward()
    for parameter in model[:4].parameters():
        assert 0 < parameter.grad.norm() < torch.inf


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters() if p.grad is not None]


def test_weight_0_is_bit_identical() -> None:
    bare, model = network(), mireg.wrap(network(), estimator="infonce", weight=0)
    torch.manual_seed(1)
    state = torch.get_rng_state()
    x, y = batch(0)
    cross_entropy(bare(x), y).backward()
    (cross_entropy(model(x), y) + model.mi_loss()).backward()
    assert torch.equal(torch.get_rng_state(), state)
    assert_equal(gradients(bare), gradients(model))


def test_random_numbers_are_the_users() -> None:
    model = mireg.wrap(network(), estimator="infonce")
    state = torch.get_rng_state()
    train(model, adam(model), range(3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stop", [0, 3, 4])
def test_resumed_is_uninterrupted(stop: int) -> None:
    def fresh() -> tuple[mireg.MIRegularized, torch.optim.Optimizer]:
        model = mireg.wrap(network(), estimator="infonce", weight=0.5)
        return model, adam(model)

    whole, optimizer = fresh()
    train(whole, optimizer, range(8))
    model, optimizer = fresh()
    train(model, optimizer, range(stop))
    saved = pickle.dumps((model.state_dict(), optimizer.state_dict(), model.regularizer.state_dict()))
    again, optimizer = fresh()
    parts: tuple[Any, ...] = again, optimizer, again.regularizer
    for part, state in zip(parts, pickle.loads(saved), strict=True):
        part.load_state_dict(state)
    train(again, optimizer, range(stop, 8))
    assert_equal(weights(again), weights(whole))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_go_on_alike(
    steps: int, twin_of: Callable[[mireg.MIRegularized], mireg.MIRegularized]
) -> None:
    model = mireg.wrap(network(), estimator="infonce", weight=0.5)
    train(model, adam(model), range(steps))
    twin = twin_of(model)
    assert not steps or weights(twin)[-1].data_ptr() != weights(model)[-1].data_ptr()
    train(model, adam(model), range(steps, steps + 4))
    train(twin, adam(twin), range(steps, steps + 4))
    assert_equal(weights(twin), weights(model))


def test_critic_moves_with_the_network() -> None:
    model = mireg.wrap(network(), estimator="infonce", weight=0.5)
    train(model, adam(model), range(2))
    model.double()
    for step in (2, 3, 4):
        x, y = batch(step)
        (cross_entropy(model(x.double()), y) + model.mi_loss()).backward()
    assert all(torch.isfinite(p).all() for p in weights(model))
    assert {p.dtype for p in weights(model)} == {torch.float64}


def test_a_batch_that_is_not_finite_does_not_end_the_critic() -> None:
    model = mireg.wrap(network(), estimator="infonce", weight=0.5)
    train(model, adam(model), range(2))

    def overflow() -> None:
        for _ in range(3):
            model(torch.full((32, 6), torch.inf))
            model.mi_loss()

    with pytest.warns(RuntimeWarning, match="not finite"):
        overflow()
    assert all(torch.isfinite(p).all() for p in weights(model))


@pytest.mark.parametrize("order", ["together", "task first", "term first"])
def test_weight_follows_the_task_in_one_backward_pass_or_two(order: str) -> None:
    model = mireg.wrap(network())
    x, y = batch(0)
    task, term = cross_entropy(model(x), y), model.mi_loss(y)
    if order == "together":
        (task + term).backward()
    else:
        for part in (task, term) if order == "task first" else (term, task):
            part.backward(retain_graph=True)
    by_task, by_term = model.regularizer.state_dict()["seen"].sqrt()
    one = mireg.wrap(network())
    logits = one(x)
    (cross_entropy(logits, y) + one.mi_loss(y)).backward()
    expected = one.regularizer.state_dict()["seen"].sqrt()
    torch.testing.assert_close(torch.stack([by_task, by_term]), expected)
    assert expected[0] > 0


def test_a_gradient_penalty_is_not_the_task() -> None:
    def seen(penalise: bool) -> Tensor:
        model = mireg.wrap(network())
        x, y = batch(0)
        x.requires_grad_()
        logits = model(x)
        loss = cross_entropy(logits, y) + model.mi_loss(y)
        loss.backward(retain_graph=True)
        if penalise:
            torch.autograd.grad(logits.sum() * 1e3, x, create_graph=True)
        found: Tensor = model.regularizer.state_dict()["seen"]
        return found

    torch.testing.assert_close(seen(True), seen(False))


@pytest.mark.parametrize("count", [2, 3, 4, 5, 12])
def test_layers_take_turns(count: int) -> None:
    """Over a round the rewards add up to those of all layers at each step, and the last is always among them."""
    torch.manual_seed(0)
    layers = {f"{index}": torch.randn(16, 3, requires_grad=index > 0) for index in range(count)}
    y = torch.arange(16) % 2
    regularizer = mireg.MIRegularizer(mireg.estimators.get("usable"), lambda step: 1.0)
    turns = min(3, max(1, count - 2))
    total = torch.zeros(())
    for _ in range(turns):
        term = regularizer.step(layers, y)
        assert term is not None
        total = total + term
    expected = -regularizer.estimator.about(list(layers.values()), y)[1:].mean() * turns
    torch.testing.assert_close(total, expected)
    assert list(regularizer.terms) == [f"{name}→target" for name in layers]
    of_round, of_all = (torch.autograd.grad(loss, list(layers.values())[1:]) for loss in (total, expected))
    torch.testing.assert_close(of_round, of_all)


def test_a_critic_for_each_layer_sees_all_of_them() -> None:
    regularizer = mireg.MIRegularizer(mireg.estimators.get("infonce"), lambda step: 1.0)
    layers = {f"{index}": torch.randn(16, 3, requires_grad=True) for index in range(6)}
    regularizer.step(layers, torch.arange(16) % 2)
    assert len(regularizer.terms) == 6


@pytest.mark.parametrize("every", [1, 2, 5])
def test_rewound_it_is_used_at_each_step_and_all_layers_have_their_turn(every: int) -> None:
    regularizer = mireg.MIRegularizer(mireg.estimators.get("usable"), lambda step: float(step < 20), every=every)
    layers = {f"{index}": torch.randn(16, 3, requires_grad=index > 0) for index in range(6)}
    regularizer.start_at(1001)
    for _ in range(3):
        regularizer.rewind()
        assert regularizer.active
        regularizer.step(layers, torch.arange(16) % 2)
    assert len(regularizer.terms) == 6
