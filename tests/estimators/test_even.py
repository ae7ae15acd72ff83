"""The gradient of the information about classes is evened out where the classes stand out, and only there."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from mireg.estimators.even import evened

CLASSES, ROWS, WIDTH = 10, 128, 16


def code(target: Tensor) -> Tensor:
    return one_hot(target, CLASSES).float()


def faint_layer(target: Tensor) -> Tensor:
    """A centred layer whose classes differ, one direction being far stronger than the others."""
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(CLASSES, WIDTH, generator=generator) * torch.tensor([10.0] + [1.0] * (WIDTH - 1))
    layer = means[target] + 0.3 * torch.randn(ROWS, WIDTH, generator=generator)
    return layer - layer.mean(0)


def strength(target: Tensor, shown: Tensor, nats: float = 0.0) -> float:
    """How far the gradient moves, relative to its length, if the layer was made from ``shown``."""
    layer = faint_layer(shown)[None]
    gradient = code(target) @ code(target).T @ layer
    moved = evened(gradient, layer, code(target), torch.tensor([nats]), 0.25) - gradient
    return float(moved.norm() / gradient.norm())


def test_the_strongest_direction_is_damped_where_classes_stand_out_and_little_is_known() -> None:
    target = torch.arange(ROWS) % CLASSES
    layer = faint_layer(target)[None]
    gradient = code(target) @ code(target).T @ layer
    even = evened(gradient, layer, code(target), torch.zeros(1), 0.25)
    before, after = (torch.linalg.svdvals(g[0]) for g in (gradient, even))
    assert after[0] / after[1] < 0.7 * before[0] / before[1]


def test_a_target_that_the_layer_has_nothing_to_do_with_leaves_the_gradient_as_it_is() -> None:
    target = torch.arange(ROWS) % CLASSES
    assert strength(target, target) > 0.2
    for seed in range(20):
        shuffled = target[torch.randperm(ROWS, generator=torch.Generator().manual_seed(seed))]
        assert strength(shuffled, target) < 0.02


def test_a_layer_that_knows_enough_keeps_its_gradient() -> None:
    target = torch.arange(ROWS) % CLASSES
    assert strength(target, target, nats=0.25) == 0


def test_one_class_and_classes_of_one_row_are_finite() -> None:
    layer = faint_layer(torch.arange(ROWS) % CLASSES)[None]
    for classes in (torch.ones(ROWS, 1), torch.eye(ROWS)):
        assert evened(layer, layer, classes, torch.zeros(1), 0.25).isfinite().all()
