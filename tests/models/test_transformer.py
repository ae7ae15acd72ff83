"""The transformer encoder of PyTorch's own layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import models


def test_defaults_are_those_of_pytorch() -> None:
    network: Any = models.build("transformer", {"depth": 2}, (1, 28, 28), 10)
    layer = network.encoder.layers[0]
    assert not layer.norm_first
    assert layer.dropout.p == 0.1
    assert layer.activation is torch.nn.functional.relu
    assert network.encoder.norm is None
    assert network.tokens.position.shape == (16, 64)
    assert models.options("transformer")["depth"] == 16


def test_norm_first_normalises_at_the_end_too() -> None:
    network: Any = models.build("transformer", {"depth": 2, "norm_first": "true"}, (1, 28, 28), 10)
    assert network.encoder.layers[1].norm_first
    assert isinstance(network.encoder.norm, nn.LayerNorm)


@pytest.mark.parametrize("norm_first", [False, True])
def test_every_parameter_learns(norm_first: bool) -> None:
    network = models.build("transformer", {"depth": 2, "width": 8, "norm_first": norm_first}, (3, 14, 21), 5)
    output = network(torch.randn(4, 3, 14, 21))
    assert output.shape == (4, 5)
    output.square().sum().backward()
    assert all(p.grad is not None for p in network.parameters())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"heads": 5}, "heads=5: must divide width=64"),
        ({"patch": 9}, r"height // patch=0: must be at least 1"),
        ({"dropout": 1.0}, "dropout=1.0: must be at least 0 and less than 1"),
    ],
)
def test_bad_requests(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build("transformer", options, (1, 8, 8), 10)
