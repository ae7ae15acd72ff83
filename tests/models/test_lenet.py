"""LeNet-5."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import models


@pytest.mark.parametrize(("side", "kernel", "flat"), [(28, 5, 400), (8, 3, 64)])
def test_its_layers_are_those_of_the_textbook(side: int, kernel: int, flat: int) -> None:
    network = models.build("lenet", {}, (1, side, side), 10)
    convolutions = [m for m in network.modules() if isinstance(m, nn.Conv2d)]
    linear = [(m.in_features, m.out_features) for m in network.modules() if isinstance(m, nn.Linear)]
    assert [(m.out_channels, m.kernel_size[0]) for m in convolutions] == [(6, 5), (16, kernel)]
    assert linear == [(flat, 120), (120, 84), (84, 10)]
    assert sum(isinstance(m, nn.Sigmoid) for m in network.modules()) == 4
    assert network(torch.randn(4, 1, side, side)).shape == (4, 10)


def test_its_size_on_28_pixels_is_the_published_one() -> None:
    assert sum(p.numel() for p in models.build("lenet", {}, (1, 28, 28), 10).parameters()) == 61_706


@pytest.mark.parametrize("shape", [(3, 20, 33), (1, 4, 4), (1, 15, 40)])
def test_other_images(shape: tuple[int, ...]) -> None:
    assert models.build("lenet", {}, shape, 7)(torch.randn(2, *shape)).shape == (2, 7)


def test_remedies() -> None:
    network: Any = models.build("lenet", {"activation": "tanh", "batchnorm": True, "init": "xavier"}, (1, 8, 8), 10)
    assert sum(isinstance(m, nn.modules.batchnorm._BatchNorm) for m in network.modules()) == 4
    assert network.head.weight.std().item() == pytest.approx((2 / (84 + 10)) ** 0.5, rel=0.1)
    assert not network.head.bias.any()


def test_an_image_too_small_to_pool_twice() -> None:
    with pytest.raises(ValueError, match=r"height // 4=0: must be at least 1"):
        models.build("lenet", {}, (1, 3, 8), 10)
