"""Where samples and channels are in an output."""

from __future__ import annotations

import pytest
import torch

from mireg.layers import Layout
from mireg.layers.layout import BatchPlace


def test_layout() -> None:
    assert Layout(batch=1, channels=2).arrange(torch.zeros(7, 6, 5)).shape == (6, 5, 7)
    assert Layout(batch=0, channels=3).arrange(torch.zeros(6, 2, 3, 5)).shape == (6, 5, 2, 3)
    assert Layout(batch=0, channels=1).arrange(torch.zeros(6, 5)).shape == (6, 5)


class TestBatchPlace:
    @pytest.mark.parametrize(
        ("shape", "is_second", "dimension"),
        [
            ((6, 4), False, 0),
            ((4, 6), False, None),  # the rows of a matrix are samples, or it has none
            ((7, 6, 4), False, 1),
            ((6, 6, 4), False, 0),
            ((6, 6, 4), True, 1),
            ((6, 3, 8, 8), True, 0),
            ((3, 8, 6), False, None),
            ((), False, None),
        ],
    )
    def test_of(self, shape: tuple[int, ...], is_second: bool, dimension: int | None) -> None:
        assert BatchPlace(6, is_second).of(torch.zeros(shape)) == dimension

    def test_the_size_that_most_layers_have_is_the_batch(self) -> None:
        layers = [[torch.zeros(6, 4)], [torch.zeros(12, 4), torch.zeros(6, 2, 4)], [torch.zeros(12, 4)]]
        assert BatchPlace.agreed(layers, [12, 6], is_second=False).size == 12
        assert BatchPlace.agreed(layers[:2], [12, 6], is_second=False).size == 6
        assert BatchPlace.agreed(layers, [], is_second=False).size is None
