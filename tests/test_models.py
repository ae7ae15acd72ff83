"""Networks built by name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import models


@pytest.mark.parametrize("batchnorm", [False, True])
@pytest.mark.parametrize("residual", [False, True])
@pytest.mark.parametrize("name", ["mlp", "cnn"])
def test_shapes_and_gradients(name: str, residual: bool, batchnorm: bool) -> None:
    network = models.build(name, {"depth": 3, "width": 8, "residual": residual, "batchnorm": batchnorm}, (1, 8, 8), 7)
    output = network(torch.randn(4, 1, 8, 8))
    assert output.shape == (4, 7)
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())
    assert any(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()) == batchnorm


@pytest.mark.parametrize("name", ["resnet18", "vit"])
def test_fixed_networks(name: str) -> None:
    network = models.build(name, {}, (3, 16, 16), 7)
    output = network(torch.randn(4, 3, 16, 16))
    assert output.shape == (4, 7)
    output.sum().backward()
    assert all(p.grad is not None for p in network.parameters())


def test_options_are_read_from_text() -> None:
    network = models.build("mlp", {"depth": "2", "width": "5", "batchnorm": "true"}, (1, 2, 2), 3)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [5, 5, 3]


def test_orthogonal_init() -> None:
    network = models.build("mlp", {"depth": 2, "width": 16, "init": "orthogonal"}, (1, 4, 4), 3)
    weight = network.layers[1][0].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nope", {}, "unknown model 'nope': choose from mlp, cnn, resnet18, vit"),
        ("mlp", {"deepth": 3}, "no option 'deepth': it has depth"),
        ("mlp", {"depth": "many"}, "depth='many' cannot be read as int"),
        ("mlp", {"depth": 0}, "depth=0: must be at least 1"),
        ("mlp", {"depth": 10**9}, "depth=1000000000: must be at most 100000"),
        ("mlp", {"activation": "swish"}, "unknown activation 'swish': choose from relu"),
        ("vit", {"heads": 5}, "heads=5: must divide width=64"),
        ("vit", {"patch": 9}, r"height // patch=0: must be at least 1"),
        ("cnn", {"init": "zero"}, "unknown init 'zero': choose from default"),
    ],
)
def test_bad_requests(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, options, (1, 8, 8), 10)
