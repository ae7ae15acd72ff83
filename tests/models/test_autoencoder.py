"""The deep autoencoder."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import models


def test_it_gives_back_samples_of_the_same_shape() -> None:
    network = models.build("autoencoder", {}, (1, 28, 28), 0)
    widths = [m.out_features for m in network.modules() if isinstance(m, nn.Linear)]
    assert widths == [512, 256, 128, 32, 128, 256, 512, 784]
    assert network(torch.rand(3, 1, 28, 28)).shape == (3, 1, 28, 28)
    assert sum(isinstance(m, nn.Tanh) for m in network.modules()) == 7


def test_options() -> None:
    chosen = {"widths": "6-2", "activation": "sigmoid", "output": "sigmoid", "init": "xavier"}
    network: Any = models.build("autoencoder", chosen, (5,), 0)
    assert [m.out_features for m in network.modules() if isinstance(m, nn.Linear)] == [6, 2, 6, 5]
    output = network(100 * torch.randn(4, 5))
    assert output.shape == (4, 5)
    assert ((output >= 0) & (output <= 1)).all()
    assert not any(p.any() for name, p in network.named_parameters() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"widths": "512,32"}, "widths='512,32': give whole numbers joined by hyphens, such as 512-128-32"),
        ({"widths": "8-0"}, "width 2=0: must be at least 1"),
        ({"output": "relu"}, "unknown output 'relu': choose from linear, sigmoid"),
    ],
)
def test_bad_requests(options: dict[str, str], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build("autoencoder", options, (5,), 0)
