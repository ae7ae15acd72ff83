"""What a user may do wrong, and what they are told."""

from __future__ import annotations

import copy
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mireg


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = torch.arange(12) % 2


def test_attributes_and_items_fall_through() -> None:
    net = network()
    net.note = "mine"  # type: ignore[assignment]
    model = mireg.wrap(net)
    assert model.note == "mine"
    assert model[0] is net[0]
    with pytest.raises(AttributeError, match="nope"):
        _ = model.nope


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(4, 8), nn.Linear(8, 5)
        self.register_buffer("offset", torch.zeros(()))
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.a(x).tanh()) * self.scale + self.offset


class TestWrites:
    def test_reach_the_network(self) -> None:
        net: Any = Scaled()
        model: Any = mireg.wrap(net)
        before = model(X)
        model.scale = 2.0
        model.offset = torch.ones(())
        assert (net.scale, net.offset.item()) == (2.0, 1.0)
        assert torch.equal(model(X), net(X))
        assert not torch.equal(model(X), before)
        assert "scale" not in vars(model)

    def test_a_module_is_replaced(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model(X)
        model.fc = head = nn.Linear(8, 2)
        assert net.fc is head
        assert model(X).shape == (12, 2)
        assert len(list(model.parameters())) == 4
        assert model.state_dict()["fc.weight"].shape == (2, 8)

    def test_a_parameter_is_replaced_and_deleted(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model.gain = nn.Parameter(torch.ones(3))
        assert "gain" in dict(net.named_parameters())
        assert "gain" in model.state_dict()
        del model.gain
        assert not hasattr(net, "gain")
        with pytest.raises(AttributeError, match="nope"):
            del model.nope

    def test_the_wrapper_keeps_what_is_its_own(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model.forward = model.forward  # as libraries do that decorate it
        model._note = 1
        assert "forward" not in vars(net)
        assert not hasattr(net, "_note")
        assert model(X).shape == (12, 5)
        model.eval()
        assert not any(each.training for each in (model, net, net.fc))
        model.train()
        assert model.training
        assert net.fc.training

    def test_copies_and_pickles(self) -> None:
        model: Any = mireg.wrap(Scaled())
        model(X)
        model.scale = 3.0
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.scale = 5.0
            assert (twin.module.scale, model.module.scale) == (5.0, 3.0)
            torch.testing.assert_close(twin(X) * 3, model(X) * 5)
            assert list(twin._caught) == list(model._caught)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimator": "nope"}, ValueError, "unknown estimator 'nope'"),
        ({"weight": -1.0}, ValueError, "weight=-1.0: must be finite"),
        ({"weight": "much"}, TypeError, "weight='much'"),
        ({"samples": 7}, ValueError, "samples=7: an estimate needs at least 8"),
        ({"every": 0}, ValueError, "every=0: the term is used"),
        ({"layers": "nope"}, ValueError, "matches no module"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mireg.wrap(network(), **options)


def test_wrapped_twice_or_not_at_all() -> None:
    with pytest.raises(TypeError, match="wrapped already"):
        mireg.wrap(mireg.wrap(network()))
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        mireg.wrap(lambda x: x)  # type: ignore[arg-type]


def test_one_term_a_forward() -> None:
    model = mireg.wrap(network(), weight=0.5)
    model(X)
    model.mi_loss()
    with pytest.raises(RuntimeError, match="nothing to work on: call it once after each forward"):
        model.mi_loss()


@pytest.mark.parametrize("rows", [1, 7])
def test_a_batch_too_small_to_say_anything(rows: int) -> None:
    model = mireg.wrap(network())
    model(X[:rows])
    message = f"a batch of {rows} samples is too small to say anything of information"
    with pytest.warns(UserWarning, match=message) as warned:
        assert model.mi_loss(torch.zeros(rows, dtype=torch.long)).item() == 0
    assert warned[0].filename == __file__  # the line that called mi_loss
    assert "too small" in model.verdict
    assert model.regularizer.steps == 1
    model(X[:rows])
    model.mi_loss()  # says it once
    model(X)
    assert model.mi_loss(Y).requires_grad
    assert model.verdict.startswith("active")


def test_a_network_in_evaluation_mode_stays_in_it() -> None:
    model = mireg.wrap(network().eval(), weight=0.5)
    assert not model.training
    model.train()
    model.module.eval()
    model(X)
    assert model._caught is None
    assert model.mi_loss(Y).item() == 0
    assert model.regularizer.steps == 0


def test_nothing_is_left_on_the_parameters() -> None:
    net = network()
    net.spare = nn.Linear(2, 2)
    net.forward = lambda x: net[:-1](x)
    model = mireg.wrap(net, layers=["0", "1"], weight=0.5)
    model(X)
    (model(X).sum() + model.mi_loss()).backward()
    model(X).sum().backward()
    model.unwrap()
    assert not any(p._backward_hooks for p in net.parameters())


def test_frozen_layers_warn_once() -> None:
    net = network()
    for parameter in net[:4].parameters():
        parameter.requires_grad_(False)
    model = mireg.wrap(net, weight=0.5)
    model(X)
    with pytest.warns(UserWarning, match="no term is added: no layer that it sees depends on a trained parameter"):
        assert model.mi_loss(Y).item() == 0
    model(X)
    model.mi_loss(Y)


def test_a_term_that_is_not_finite_is_named_by_pair() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    model = mireg.wrap(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), Broken())), "?")
    model(X)
    with pytest.warns(RuntimeWarning, match="not finite at step 0 or just before, in 1→2:"):
        model.mi_loss()


def test_samples_are_the_first_rows() -> None:
    model = mireg.wrap(network(), ["input", "1", "3"], samples=9)
    net: Any = model.module
    layers = [X[:9], net[:2](X[:9]), net[:4](X[:9])]
    model(X)
    model.mi_loss()
    expected = model.regularizer.estimator.successive(layers)
    torch.testing.assert_close(torch.stack(list(model.mi_terms().values())), expected.detach())
    model(X)
    model.mi_loss(Y)
    expected = model.regularizer.estimator.about(layers, Y[:9])
    torch.testing.assert_close(torch.stack(list(model.mi_terms().values())), expected.detach())
    assert list(model.mi_terms()) == ["input→target", "1→target", "3→target"]
