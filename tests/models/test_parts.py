"""Initialisation schemes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from mireg.diagnostics import input_gradients, mean_cosine

SHAPE = (1, 8, 8)


def test_looks_linear_is_linear_at_the_start() -> None:
    torch.manual_seed(0)
    network: Any = models.build("mlp", {"depth": 20, "width": 128, "init": "looks-linear"}, SHAPE, 10)
    x = torch.randn(32, *SHAPE)
    with torch.no_grad():
        halves = network.layers(network.flatten(x))
        z = halves[:, :64] - halves[:, 64:]
    assert torch.allclose(z.norm(dim=1), x.flatten(1).norm(dim=1), rtol=1e-4)  # orthogonal: it keeps lengths

    def unmirrored(inputs: Tensor) -> Tensor:
        halves = network.layers(network.flatten(inputs))
        return halves[:, 0] - halves[:, 64]

    assert mean_cosine(input_gradients(unmirrored, x)) == pytest.approx(1, abs=1e-5)


def test_he_is_not_linear_at_the_start() -> None:
    torch.manual_seed(0)
    network: Any = models.build("mlp", {"depth": 20, "width": 128, "init": "he"}, SHAPE, 10)
    gradients = input_gradients(lambda inputs: network.layers(network.flatten(inputs))[:, 0], torch.randn(32, *SHAPE))
    assert mean_cosine(gradients) < 0.9


def test_looks_linear_convolutions_mirror() -> None:
    network: Any = models.build("cnn", {"depth": 3, "width": 8, "init": "looks-linear"}, SHAPE, 10)
    with torch.no_grad():
        for layer in network.layers.modules():
            if isinstance(layer, nn.Conv2d):
                assert torch.equal(layer.weight[:4], -layer.weight[4:])
        first = network.layers[0](torch.randn(2, *SHAPE))
        third = network.layers[1:](first)
    assert torch.allclose((third[:, :4] - third[:, 4:]).norm(), (first[:, :4] - first[:, 4:]).norm(), rtol=1e-4)


def test_looks_linear_needs_an_even_width() -> None:
    with pytest.raises(ValueError, match="width=7"):
        models.build("mlp", {"width": 7, "init": "looks-linear"}, SHAPE, 10)


@pytest.mark.parametrize("scheme", ["he", "xavier", "orthogonal", "looks-linear"])
def test_biases_start_at_zero(scheme: str) -> None:
    network: Any = models.build("mlp", {"init": scheme}, SHAPE, 10)
    assert all(not p.any() for name, p in network.layers.named_parameters() if name.endswith("bias"))
