"""The spiking network."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch

import models
from models.snn import Leaky, Spike


def test_a_neuron_by_hand() -> None:
    neuron = Leaky(decay=0.5)
    current = torch.tensor([[0.8]])
    spikes = [neuron(current).item() for _ in range(4)]
    # potentials before the spike: 0.8, 1.2, 0.9 (0.1 left and 0.8 new), 1.25
    assert spikes == [0, 1, 0, 1]
    assert neuron.membrane is not None
    assert neuron.membrane.item() == pytest.approx(0.25)


def test_the_surrogate_gradient_by_hand() -> None:
    x = torch.tensor([-0.1, 0.0, 0.3], requires_grad=True)
    spikes = Spike.apply(x)
    assert spikes.tolist() == [0, 0, 1]
    spikes.sum().backward()
    assert x.grad is not None
    assert x.grad.tolist() == pytest.approx([1 / 4, 1, 1 / 16])


def test_a_pass_starts_from_rest_and_leaves_nothing_behind() -> None:
    network: Any = models.build("snn", {"depth": 3, "width": 16, "steps": 4, "init": "he"}, (1, 8, 8), 5)
    images = torch.randn(6, 1, 8, 8)
    first = network(images)
    assert first.shape == (6, 5)
    assert torch.equal(network(images), first)
    assert all(m.membrane is None for m in network.modules() if isinstance(m, Leaky))
    assert torch.equal(copy.deepcopy(network)(images[:2]), first[:2])


def test_the_gradient_reaches_the_first_layer() -> None:
    network: Any = models.build("snn", {"depth": 3, "width": 32, "steps": 4, "init": "he"}, (1, 8, 8), 5)
    network(torch.randn(6, 1, 8, 8)).square().sum().backward()
    assert all(p.grad.abs().sum() > 0 for p in network.parameters())


def test_bad_decay() -> None:
    with pytest.raises(ValueError, match=r"decay=1\.5: must be from 0 to 1"):
        models.build("snn", {"decay": 1.5}, (1, 8, 8), 5)
