"""Values at positions, as denoisers and forecasters have them, are read where they stand."""

from __future__ import annotations

import pytest
import torch

from mireg.rows import choose_rows


@pytest.mark.parametrize(
    ("layer", "target"),
    [((32, 4, 8, 8), (32, 3, 8, 8)), ((32, 4, 6), (32, 6)), ((32, 4, 6), (32, 6, 3)), ((32, 4, 6), (32, 3, 6))],
)
def test_values_of_positions_are_rows(layer: tuple[int, ...], target: tuple[int, ...]) -> None:
    hidden, values = torch.randn(layer), torch.randn(target)
    rows, read = choose_rows([hidden, hidden], values, 16, step=0)
    assert len(rows[0]) == len(read) == 64
    channels_last = len(target) == 2 or target[1] == layer[2]
    for row, value in zip(rows[0], read, strict=True):
        sample, place = (hidden.flatten(2) == row[:, None]).all(1).nonzero()[0].tolist()
        wanted = values[sample].flatten(1)[:, place] if not channels_last else values[sample, place].flatten()
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("target", [(32, 5), (32, 3, 8, 8), (32,)])
def test_values_of_samples_are_pooled(target: tuple[int, ...]) -> None:
    rows, read = choose_rows([torch.randn(32, 4, 6), torch.randn(32, 7)], torch.randn(target), 16, step=0)
    assert len(rows[0]) == len(rows[1]) == len(read) == 16
