"""The graph convolutional network."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import models
from mireg.ablation.data.graph_file import normalised_adjacency
from models.gcn import ALPHA, InitialResidual, PairNorm

EDGES = torch.tensor([[0, 1], [1, 2], [3, 4]])
ADJACENCY = normalised_adjacency(EDGES, 5)


def network(**options: Any) -> Any:
    torch.manual_seed(0)
    return models.build("gcn", {"depth": 4, "width": 6, **options}, (3,), 2)


def features() -> Tensor:
    return torch.randn(5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("options", [{}, {"residual": True}, {"pairnorm": True}])
def test_sparse_and_dense_adjacency_give_the_same(options: dict[str, bool]) -> None:
    net = network(**options).eval()
    output = net(features(), ADJACENCY)
    assert output.shape == (5, 2)
    torch.testing.assert_close(net(features(), ADJACENCY.to_dense()), output)
    output.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_nodes_see_their_component_alone() -> None:
    net = network().eval()
    changed = features()
    changed[4] += 1
    same = (net(features(), ADJACENCY) == net(changed, ADJACENCY)).all(1)
    assert same.tolist() == [True, True, True, False, False]


def test_a_layer_by_hand() -> None:
    net = network(depth=2).eval()
    weight, bias = net.layers[0].convolution.linear.weight, net.layers[0].convolution.linear.bias
    dense = ADJACENCY.to_dense()
    hidden = torch.relu(dense @ (features() @ weight.T + bias))
    torch.testing.assert_close(net(features(), ADJACENCY), dense @ net.head.linear(hidden))
    assert not bias.any()


def test_dropout_is_for_training() -> None:
    net = network()
    assert not torch.equal(net(features(), ADJACENCY), net(features(), ADJACENCY))
    net.eval()
    assert torch.equal(net(features(), ADJACENCY), net(features(), ADJACENCY))


def test_an_initial_residual_by_hand() -> None:
    layer: Any = InitialResidual(2, 0.25, torch.nn.Identity())
    x, first = torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 0.0]])
    mixed = (1 - ALPHA) * x + ALPHA * first
    wanted = torch.relu(0.75 * mixed + 0.25 * mixed @ layer.linear.weight.T)
    torch.testing.assert_close(layer(x, torch.eye(1), first), wanted)


def test_pairnorm_centres_and_scales() -> None:
    output = PairNorm()(100 + 7 * torch.randn(50, 4))
    torch.testing.assert_close(output.mean(0), torch.zeros(4), atol=1e-5, rtol=0)
    assert output.square().sum(1).mean().item() == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"depth": 1}, (3,), "depth=1: a gcn has at least 2 graph convolutions"),
        ({"dropout": -0.5}, (3,), "dropout=-0.5: must be at least 0"),
        ({}, (1, 8, 8), r"a gcn needs nodes of shape \(features,\), not \(1, 8, 8\)"),
    ],
)
def test_bad_requests(options: dict[str, Any], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build("gcn", options, shape, 2)


def test_the_shape_may_be_that_of_both_inputs() -> None:
    net = models.build("gcn", {"depth": 2}, ((3,), (5,)), 2)
    assert net(features(), ADJACENCY).shape == (5, 2)
