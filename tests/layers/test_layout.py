"""Where samples and channels are in an output."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mireg.layers import Layout
from mireg.layers.layout import arranged


def test_layout() -> None:
    assert Layout(batch=1, channels=2).arrange(torch.zeros(7, 6, 5)).shape == (6, 5, 7)
    assert Layout(batch=0, channels=3).arrange(torch.zeros(6, 2, 3, 5)).shape == (6, 5, 2, 3)
    assert Layout(batch=0, channels=1).arrange(torch.zeros(6, 5)).shape == (6, 5)
    assert Layout(batch=1, channels=0).arrange(torch.zeros(5, 6)).shape == (6, 5)
    assert Layout().arrange(torch.zeros(6)).shape == (6,)


MERGED = [
    (Layout(inner=2), (12, 5, 3), (6, 5, 2, 3)),
    (Layout(outer=2), (12, 5), (6, 5, 2)),
    (Layout(batch=1, channels=2, outer=2, inner=3), (4, 36, 5), (6, 5, 4, 2, 3)),
    (Layout(batch=1, channels=0, inner=2), (5, 12), (6, 5, 2)),
]


@pytest.mark.parametrize(("layout", "shape", "after"), MERGED)
def test_what_is_merged_with_the_samples_is_positions(
    layout: Layout, shape: tuple[int, ...], after: tuple[int, ...]
) -> None:
    tensor = torch.randn(shape)
    ours = layout.arrange(tensor)
    assert ours.shape == after
    assert torch.equal(layout.restore(ours), tensor)
    first = slice(layout.inner, 2 * layout.inner)  # the second sample, of the first view
    assert torch.isin(tensor.movedim(layout.batch, 0)[first].contiguous(), ours[1].contiguous()).all()


@pytest.mark.parametrize("layout", [Layout(), Layout(1, 2), Layout(inner=2), Layout(1, 2, 2), Layout(0, 2, 1, 3)])
def test_views_lead_back_to_the_tensor_of_the_network(layout: Layout) -> None:
    tensor: Tensor = torch.randn(12, 12, 12, requires_grad=True) * 1
    ours = layout.arrange(tensor)
    node = ours.grad_fn
    for _ in range(layout.views(ours)):
        node = node.next_functions[0][0]
    assert node is tensor.grad_fn


def test_sizes_of_another_pass() -> None:
    layers = {"a": (Layout(), torch.zeros(6, 4)), "b": (Layout(outer=2), torch.zeros(12, 4))}
    assert arranged(layers)["b"].shape == (6, 4, 2)
    longer = {**layers, "c": (Layout(inner=3), torch.zeros(30, 4)), "d": (Layout(inner=3), torch.zeros(8, 4))}
    assert {name: tuple(layer.shape) for name, layer in arranged(longer).items()} == {
        "a": (6, 4),
        "b": (6, 4, 2),
        "c": (6, 4, 5),
    }
