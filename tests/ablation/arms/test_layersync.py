"""LayerSync: an early layer follows a later one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import normalize

import models
from mireg.ablation.arms import Term
from mireg.ablation.arms.layersync import LayerSync
from mireg.ablation.errors import UserError
from mireg.rows import pool
from tests.ablation.arms.small import X, Y, added_by, hidden, network, reached


def test_by_hand() -> None:
    term = LayerSync(module := network(5), Term(), X[:2])
    a, b = hidden(module)[1], hidden(module)[2]  # .3 and .6 of 5 layers
    wanted = -0.2 * (normalize(a) * normalize(b)).sum(1).mean()
    assert added_by(term).item() == pytest.approx(wanted.item(), rel=1e-5)
    assert list(term.values()) == ["cosine layers.1, layers.2"]
    assert term.verdict == "aligns layers.1 with layers.2"
    assert not term.parameters()


def test_the_published_layers_of_28() -> None:
    assert LayerSync(network(28), Term(), X[:2]).verdict == "aligns layers.7 with layers.16"


def test_only_the_early_layer_learns() -> None:
    term = LayerSync(module := network(5), Term(), X[:2])
    module.layers[2][0].requires_grad_(False)  # the later layer and what is behind it get nothing
    assert reached(term, module) == [True, True, False, False, False]


def test_positions_of_maps_are_compared_one_by_one() -> None:
    module: Any = models.build("cnn", {"depth": 4, "width": 5}, (1, 8, 8), 3)
    term = LayerSync(module, Term(), X[:2])
    term.model(X)
    layers = {}
    for name in ("layers.1", "layers.2"):
        module.get_submodule(name).register_forward_hook(lambda m, i, o, name=name: layers.update({name: o}))
    module(X)
    similarity = (normalize(layers["layers.1"], dim=1) * normalize(layers["layers.2"], dim=1)).sum(1).mean()
    assert "aligns layers.1 with layers.2" in term.verdict
    assert added_by(term).item() == pytest.approx(-0.2 * similarity.item(), rel=1e-5)


def test_layers_of_other_shapes_meet_through_a_linear_map() -> None:
    state = torch.get_rng_state()
    module: Any = models.build("lenet", {}, (1, 8, 8), 3)
    built = torch.get_rng_state()
    term = LayerSync(module, Term(), X[:2])
    assert torch.equal(torch.get_rng_state(), built)
    assert not torch.equal(built, state)
    assert term.verdict == "aligns layers.1 with layers.4, through a learned linear map"
    weight, bias = term.parameters()
    assert not any(weight is p for p in module.parameters())
    early = module.layers[:2](X)
    late = module.layers[:5](X)
    mapped = pool(early).flatten(1) @ weight.T + bias
    wanted = -0.2 * (normalize(mapped) * normalize(late)).sum(1).mean()
    assert added_by(term).item() == pytest.approx(wanted.item(), rel=1e-5)
    added_by(term).backward()
    assert weight.grad is not None
    assert module.layers[0][0].weight.grad.any()
    resumed = LayerSync(models.build("lenet", {}, (1, 8, 8), 3), Term(), X[:2])
    resumed.network.load_state_dict(module.state_dict())
    resumed.load_state_dict(term.state_dict())
    assert torch.equal(added_by(resumed), added_by(term))


def test_a_dead_layer_has_a_finite_gradient() -> None:
    term = LayerSync(module := network(5), Term(), X[:2])
    nn.init.zeros_(module.layers[1][0].weight)
    nn.init.zeros_(module.layers[1][0].bias)
    added_by(term).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in module.parameters())


def test_one_hidden_layer_is_too_few() -> None:
    with pytest.raises(UserError, match="'layersync' does not apply"):
        LayerSync(network(1), Term(), X[:2])
    assert len(Y) == len(X)
