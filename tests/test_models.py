"""Networks built by name."""

from __future__ import annotations

from typing import Any

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


@pytest.mark.parametrize("name", ["vgg", "resnet", "resnet18", "vit", "rnn"])
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
    network: Any = models.build("mlp", {"depth": 2, "width": 16, "init": "orthogonal"}, (1, 4, 4), 3)
    weight = network.layers[1][0].weight
    torch.testing.assert_close(weight @ weight.T, 2 * torch.eye(16), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("nope", {}, "unknown model 'nope': choose from mlp, cnn, vgg, resnet, resnet18, vit"),
        ("mlp", {"deepth": 3}, "no option 'deepth': it has depth"),
        ("mlp", {"depth": "many"}, "depth='many' cannot be read as int"),
        ("mlp", {"depth": 0}, "depth=0: must be at least 1"),
        ("mlp", {"depth": 10**9}, "depth=1000000000: must be at most 100000"),
        ("mlp", {"activation": "swish"}, "unknown activation 'swish': choose from relu"),
        ("vit", {"heads": 5}, "heads=5: must divide width=64"),
        ("vit", {"patch": 9}, r"height // patch=0: must be at least 1"),
        ("resnet", {"depth": 9}, "depth=9: a resnet has 8, 14, 20"),
        ("vgg", {"depth": 16}, "depth=16: a vgg has 10 or 13 layers"),
        ("rnn", {"cell": "mgu"}, "unknown cell 'mgu': choose from lstm, gru, rnn"),
        ("cnn", {"init": "zero"}, "unknown init 'zero': choose from default"),
    ],
)
def test_bad_requests(name: str, options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build(name, options, (1, 8, 8), 10)


def test_resnet_8_and_20_have_their_published_size() -> None:
    sizes = [
        sum(p.numel() for p in models.build("resnet", {"depth": depth}, (3, 32, 32), 10).parameters())
        for depth in (8, 20)
    ]
    assert sizes == [78_042, 272_474]  # 0.27 million in the paper; the skips' convolutions have 2,752


def test_a_vgg_has_nine_convolutions_in_stages_of_growing_width() -> None:
    network = models.build("vgg", {"width": 4, "batchnorm": True}, (3, 32, 32), 10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert [m.out_channels for m in convolutions] == [4, 4, 8, 8, 16, 16, 16, 16, 16]
    with pytest.raises(ValueError, match=r"height // 8=0: must be at least 1"):
        models.build("vgg", {}, (3, 7, 32), 10)


@pytest.mark.parametrize("batchnorm", [False, True])
def test_the_vgg_of_13_layers_has_two_dense_layers_with_dropout(batchnorm: bool) -> None:
    network = models.build("vgg", {"depth": 13, "width": 4, "batchnorm": batchnorm, "init": "he"}, (1, 28, 28), 10)
    weighted = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    assert [len(m.weight) for m in weighted] == [4, 4, 8, 8, *[16] * 6, 32, 32, 10]
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [0.5, 0.5]
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()) == 12 * batchnorm
    assert all(not m.bias.any() for m in weighted[:-1] if m.bias is not None)
    assert network(torch.randn(4, 1, 28, 28)).shape == (4, 10)


def test_an_rnn_reads_an_image_row_by_row() -> None:
    network = models.build("rnn", {"depth": 2, "width": 5, "cell": "gru"}, (3, 6, 7), 4).eval()
    images = torch.randn(2, 3, 6, 7)
    rows = torch.stack([images[:, :, row].flatten(1) for row in range(6)], 1)
    torch.testing.assert_close(network(images), network(rows))
    assert [layer.input_size for layer in network.layers] == [21, 5]
