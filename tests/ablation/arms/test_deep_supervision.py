"""Auxiliary heads at hidden layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import cross_entropy, mse_loss

import models
from mireg.ablation.arms import Term
from mireg.ablation.arms.deep_supervision import DeepSupervision, Standardise
from tests.ablation.arms.small import X, Y, added_by, hidden, network, reached


def test_nothing_is_captured_once_its_weight_is_0() -> None:
    term = DeepSupervision(network(), Term(decay_steps=2), X[:2])
    model: Any = term.model
    caught = []

    def step() -> torch.Tensor:
        task = term.model(X).sum()
        caught.append(len(model._outputs))
        return term(task, torch.arange(len(X)) % 2)

    added = [step().item() for _ in range(4)]
    assert [bool(each) for each in added] == [True, True, False, False]
    assert [bool(count) for count in caught] == [True, True, False, False]
    resumed = DeepSupervision(network(), Term(decay_steps=2), X[:2])
    resumed.load_state_dict(term.state_dict())
    resumed.model(X)
    assert not resumed.model._outputs


def test_deep_supervision_by_hand() -> None:
    term = DeepSupervision(module := network(3), Term(decay_steps=4), X[:2])
    weights = term.parameters()
    heads = list(zip(weights[::2], weights[1::2], strict=True))
    losses = [
        cross_entropy(Standardise()(layer) @ w.T + b, Y) for layer, (w, b) in zip(hidden(module), heads, strict=True)
    ]
    wanted = torch.stack(losses).mean().item()
    assert added_by(term).item() == pytest.approx(wanted, rel=1e-5)
    assert added_by(term).item() == pytest.approx(0.75 * wanted, rel=1e-5)
    assert reached(term, module) == [True] * 3


def test_it_resumes() -> None:
    term, resumed = (DeepSupervision(network(4), Term(decay_steps=10), X[:2]) for _ in range(2))
    with torch.no_grad():
        term.parameters()[0].add_(1)
    added_by(term)
    resumed.load_state_dict(term.state_dict())
    assert torch.equal(added_by(resumed), added_by(term))


def test_making_it_draws_no_random_numbers() -> None:
    module = network()
    state = torch.get_rng_state()
    DeepSupervision(module, Term(), X[:2])
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("flat", [False, True])
def test_a_reconstruction_is_asked_of_every_layer(flat: bool) -> None:
    module: Any = models.build("autoencoder", {"widths": "9-4"}, (1, 8, 8), 0)
    term = DeepSupervision(module, Term(), X[:2])
    task = mse_loss(term.model(X), X)
    assert [w.shape[0] for w in term.parameters()] == [64] * 6
    added = term(task, X.flatten(1) if flat else X)
    w, b = term.parameters()[:2]
    first = module.layers[0](X.flatten(1))
    assert term.values()["layers.0"].item() == pytest.approx(
        mse_loss(Standardise()(first) @ w.T + b, X.flatten(1)).item(), rel=1e-5
    )
    added.backward()
    assert all(p.grad is not None for p in module.layers.parameters())


def test_tokens_have_a_head_per_position() -> None:
    tokens = torch.randint(11, (16, 9))
    module: Any = models.build("gpt", {"depth": 2, "width": 8, "heads": 2, "context": 8}, (8,), 11)
    term = DeepSupervision(module, Term(), tokens[:2, :-1])
    outputs = term.model(tokens[:, :-1])
    term(cross_entropy(outputs.flatten(0, 1), tokens[:, 1:].flatten()), tokens[:, 1:]).backward()
    assert {tuple(w.shape) for w in term.parameters()[::2]} == {(11, 8)}
    assert all(p.grad is not None for p in term.parameters())


def test_a_network_of_several_inputs() -> None:
    nodes, adjacency, y = torch.randn(30, 5), torch.eye(30).to_sparse_coo(), torch.arange(30) % 3
    module: Any = models.build("gcn", {"depth": 4, "width": 6}, (5,), 3)
    term = DeepSupervision(module, Term(), (nodes, adjacency))
    term(cross_entropy(term.model(nodes, adjacency), y), y.masked_fill(y == 2, -100)).backward()
    assert all(layer.convolution.linear.weight.grad.any() for layer in module.layers)
