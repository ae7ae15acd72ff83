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
    found = choose_rows([hidden, hidden], values, 16, step=0)
    assert found.target is not None
    assert (found.kind, found.per_position) == ("values per position", True)
    assert len(found.layers[0]) == len(found.target) == 64
    channels_last = len(target) == 2 or target[1] == layer[2]
    for row, value in zip(found.layers[0], found.target, strict=True):
        sample, place = (hidden.flatten(2) == row[:, None]).all(1).nonzero()[0].tolist()
        wanted = values[sample].flatten(1)[:, place] if not channels_last else values[sample, place].flatten()
        assert torch.equal(value, wanted)


@pytest.mark.parametrize("target", [(32, 5), (32, 3, 8, 8), (32,)])
def test_values_of_samples_are_pooled(target: tuple[int, ...]) -> None:
    found = choose_rows([torch.randn(32, 4, 6), torch.randn(32, 7)], torch.randn(target), 16, step=0)
    assert found.target is not None
    assert (found.kind, found.per_position) == ("values", False)
    assert len(found.layers[0]) == len(found.layers[1]) == len(found.target) == 16


@pytest.mark.parametrize("step", [0, 1, 7])
@pytest.mark.parametrize("share", [0.02, 0.2, 1.0])
def test_positions_without_a_target_are_taken_only_where_no_other_is_left(share: float, step: int) -> None:
    places, known = 96, round(share * 96)
    target = torch.full((32, places), -100)
    for row in target:
        row[torch.randperm(places)[:known]] = torch.randint(5, (known,))
    hidden = torch.arange(32.0 * places).view(32, 1, places)
    found = choose_rows([hidden, hidden], target, 64, step)
    rows, read = found.layers[0], found.target
    assert read is not None
    assert found.kind == "classes per position"
    assert len(read) == len(rows) == 256
    assert len(rows.unique()) == 256  # none is taken twice
    assert torch.equal(target.flatten()[rows[:, 0].long()], read)
    assert int((read != -100).sum()) == min(256, 32 * known)
    if 32 * known > 256:  # from all over the batch, and others at each step
        assert len((rows // places).unique()) == 32
        others = choose_rows([hidden, hidden], target, 64, step + 1).layers[0]
        assert not torch.equal(rows, others)


def test_values_of_minus_100_are_values() -> None:
    values = torch.full((32, 6), -100.0)
    values[:, ::2] = 1.0
    hidden = torch.randn(32, 4, 6)
    read = choose_rows([hidden, hidden], values, 16, step=0).target
    assert read is not None
    assert 0 < int((read == -100).sum()) < 64
