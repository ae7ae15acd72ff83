"""Each arm trains, and does what it says and nothing else."""

from __future__ import annotations

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mireg
import models
from mireg.ablation.arms import ARMS, LossTerm, Term
from mireg.ablation.arms.baselines import DeepSupervision, LayerwiseBatchEntropy, batch_entropy
from mireg.ablation.arms.loss_term import NoTerm
from mireg.ablation.arms.lsuv import lsuv
from mireg.ablation.errors import UserError
from mireg.ablation.study.config import Cell
from tests.ablation.running import run

X, Y = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(16) % 3


def network(depth: int = 3) -> Any:
    torch.manual_seed(0)
    return models.build("mlp", {"depth": depth, "width": 6}, (1, 8, 8), 3)


def loss_of(term: LossTerm) -> torch.Tensor:
    task = cross_entropy(term.model(X), Y)
    added = term(task, Y)
    return task if added is None else task + added


@pytest.mark.parametrize("name", [name for name in ARMS if name == "mi" or "mi-" + name not in ARMS])
def test_trains_a_step(tmp_path: Path, name: str) -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 2, {"depth": 4, "width": 16}, eval_every=2).as_trained(name)
    result = run(tmp_path, cell, name)
    assert result["failure"] is None
    assert [point["step"] for point in result["curve"]] == [0, 2]
    assert (result["curve"][-1]["term_share"] is None) == (ARMS[name].term is NoTerm)


def test_mi_is_what_wrapping_does() -> None:
    arm: Any = ARMS["mi"].term(network(), Term(), X[:2]).model
    ours, theirs = arm.regularizer, mireg.wrap(network()).regularizer
    for key in ("samples", "every"):
        assert getattr(ours, key) == getattr(theirs, key)
    assert repr(ours.estimator) == repr(theirs.estimator)
    assert [ours.weight(step) for step in range(0, 500, 7)] == [theirs.weight(step) for step in range(0, 500, 7)]


class TestControls:
    @staticmethod
    def read(name: str, target: torch.Tensor) -> dict[str, float]:
        torch.manual_seed(1)
        term = ARMS[name].term(network(), Term(), X[:2])
        term.model(X)
        assert term(torch.zeros(()), target) is not None
        return {pair: nats.item() for pair, nats in term.values().items()}

    def test_a_shuffled_target_is_another(self) -> None:
        assert list(self.read("target-shuffled", Y)) == list(self.read("mi", Y))
        assert self.read("target-shuffled", Y) != self.read("mi", Y)
        same = torch.zeros_like(Y, dtype=torch.float32)
        assert self.read("target-shuffled", same) == self.read("mi", same)

    def test_shuffled_pairs_know_nothing_of_each_other(self) -> None:
        free, shuffled = self.read("mi-label-free", Y), self.read("pairs-shuffled", Y)
        assert list(free) == list(shuffled)
        assert all(shuffled[pair] < free[pair] for pair in free)

    def test_the_last_layer_alone(self) -> None:
        every, last = self.read("mi", Y), self.read("last-layer", Y)
        assert list(last) == [next(iter(every)), list(every)[-1]]


def test_a_change_of_the_network_is_part_of_the_cell() -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 2, {"depth": 4})
    assert cell.as_trained("none") == cell
    assert cell.as_trained("batchnorm").model_options == {"depth": 4, "batchnorm": True}
    assert cell.as_trained("layerwise-lr").lr_divisor == 2.6


def test_an_unknown_arm_has_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown arm 'lbee' \(did you mean lbe\?\)"):
        Cell("cell", "digits", "mlp", 0.8, 2, arms=("lbee",))


class TestLayerwiseBatchEntropy:
    def test_entropy_by_hand(self) -> None:
        layer = torch.tensor([[1.0, 0.0], [3.0, 0.0]])  # variances 2 and 0
        assert batch_entropy(layer).item() == pytest.approx(math.log(2 * math.pi * math.e + 1) / 4)

    def test_every_place_of_a_map_is_a_unit(self) -> None:
        maps = torch.randn(5, 2, 3, 3)
        assert torch.equal(batch_entropy(maps), batch_entropy(maps.flatten(1)))

    @pytest.mark.parametrize(("alpha", "wanted"), [(0.5, 0.5), (-0.5, 0.5), (0.1, 0.2)])
    def test_loss_by_hand(self, alpha: float, wanted: float) -> None:
        module = network(2)
        term = LayerwiseBatchEntropy(module, Term(), X[:2], beta=0.1, alpha=alpha)
        first = module.layers[0](X.flatten(1))
        second = module.layers[1](first)
        task = cross_entropy(module.head(second), Y)
        penalty = sum(0.1 * (batch_entropy(layer) - wanted) ** 2 for layer in (first, second)) / 2
        assert loss_of(term).item() == pytest.approx((task * (1 + penalty)).item(), rel=1e-6)

    def test_collapsed_layers_have_a_finite_gradient(self) -> None:
        term = LayerwiseBatchEntropy(module := network(), Term(), X[:2])
        nn.init.zeros_(module.layers[1][0].weight)
        loss_of(term).backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in (*module.parameters(), *term.parameters()))

    def test_alphas_are_trained_beside_the_weights(self) -> None:
        term = LayerwiseBatchEntropy(module := network(), Term(), X[:2])
        (alphas,) = term.parameters()
        assert alphas.tolist() == [0.5] * 3
        assert not any("alpha" in key for key in module.state_dict())
        loss_of(term).backward()
        assert (alphas.grad != 0).all()

    def test_making_it_changes_nothing(self) -> None:
        module = models.build("mlp", {"depth": 3, "width": 6, "batchnorm": True}, (1, 8, 8), 3)
        before, state = copy.deepcopy(module.state_dict()), torch.get_rng_state()
        LayerwiseBatchEntropy(module, Term(), X[:2])
        assert module.training
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(value, before[key]) for key, value in module.state_dict().items())

    def test_a_copy_of_the_network_is_bare(self) -> None:
        bare = LayerwiseBatchEntropy(module := network(), Term(), X[:2]).bare_copy()
        assert torch.equal(bare(X), module(X))
        assert not any(m._forward_hooks for m in bare.modules())


def test_deep_supervision_catches_nothing_once_its_weight_is_0() -> None:
    term = DeepSupervision(network(), Term(decay_steps=2), X[:2])
    model: Any = term.model
    caught = []

    def step() -> torch.Tensor:
        task = term.model(X).sum()
        caught.append(len(model._caught))
        return term(task, torch.arange(len(X)) % 2)

    added = [step().item() for _ in range(4)]
    assert [bool(each) for each in added] == [True, True, False, False]
    assert [bool(count) for count in caught] == [True, True, False, False]
    resumed = DeepSupervision(network(), Term(decay_steps=2), X[:2])
    resumed.load_state_dict(term.state_dict())
    resumed.model(X)
    assert not resumed.model._caught


class TestLSUV:
    def test_every_layer_has_unit_variance_and_orthogonal_weights(self) -> None:
        net = models.build("cnn", {"depth": 3, "width": 8}, (1, 8, 8), 3)
        lsuv(net, X)
        seen = []
        layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        for layer in layers:
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.std().item()))
        net(X)
        assert seen == pytest.approx([1.0] * 5, rel=1e-4)
        weight = layers[1].weight.flatten(1)
        gram = weight @ weight.T
        torch.testing.assert_close(gram / gram[0, 0], torch.eye(8), atol=1e-4, rtol=0)

    def test_statistics_and_random_numbers_stay(self) -> None:
        net = models.build("mlp", {"depth": 3, "width": 6, "batchnorm": True}, (1, 8, 8), 3)
        before, state = {name: b.clone() for name, b in net.named_buffers()}, torch.get_rng_state()
        lsuv(net, X)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
        assert not any(m._forward_hooks for m in net.modules())

    def test_inputs_without_variance_leave_finite_weights(self) -> None:
        lsuv(net := network(), torch.zeros_like(X))
        assert all(p.isfinite().all() for p in net.parameters())

    def test_it_says_where_it_does_not_apply(self) -> None:
        with pytest.raises(UserError, match=r"'lsuv' does not apply: cell.weight_ih belongs to a LSTMCell"):
            lsuv(nn.ModuleDict({"cell": nn.LSTMCell(2, 3)}), X)


def test_muon_takes_the_optimizer_of_the_cell() -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 2, optimizer="sgd")
    assert (cell.as_trained("muon").optimizer, cell.as_trained("mi").optimizer) == ("muon", "sgd")
