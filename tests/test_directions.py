"""Directions of the push: all alike, whatever the gradient's scale."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from mireg.directions import RANK, Direction, directions, fits, push


def matrix(direction: Direction | None) -> torch.Tensor:
    assert direction is not None
    return push(direction, torch.tensor(1.0))


@pytest.fixture(params=[False, True], ids=["denormals", "flushed"])
def _arithmetic(request: pytest.FixtureRequest) -> Iterator[None]:
    if not torch.set_flush_denormal(request.param):
        pytest.skip("this CPU can't flush denormals")
    yield
    torch.set_flush_denormal(False)


@pytest.mark.usefixtures("_arithmetic")
@pytest.mark.parametrize("scale", [1e30, 1.0, 1e-15, 1e-25, 1e-34])
def test_directions_do_not_depend_on_scale(scale: float) -> None:
    """A hundred layers deep, gradients lie near the smallest numbers that there are."""
    gradients = [torch.randn(40, 60), torch.randn(8, 3, 3, 3), torch.randn(40), torch.randn(())]
    found = directions([scale * g for g in gradients])
    for gradient, direction, plain in zip(gradients, found, directions(gradients), strict=True):
        assert direction is not None
        assert fits(direction, torch.nn.Parameter(gradient))
        torch.testing.assert_close(matrix(direction), matrix(plain), atol=1e-4, rtol=0)
        torch.testing.assert_close(matrix(direction).norm(), torch.tensor(1.0))


def test_all_directions_are_raised_alike() -> None:
    u, v = (torch.linalg.qr(torch.randn(50, 10)).Q for _ in range(2))
    (found,) = directions([u @ torch.logspace(0, -2, 10).diag() @ v.mT])
    values = torch.linalg.svdvals(matrix(found))
    assert values[0] / values[9] < 2
    assert values[10:].max() < 1e-4


def test_rank_is_bounded() -> None:
    (found,) = directions([torch.randn(100, 100)])
    assert torch.linalg.matrix_rank(matrix(found), rtol=1e-4) == RANK


def test_what_the_reward_does_not_reach_stays() -> None:
    zero, nothing, empty = directions([torch.zeros(20, 30), None, torch.zeros(0, 3)])
    assert not matrix(zero).any()
    assert nothing is None
    assert empty is None


def test_broken_gradients_are_not_hidden() -> None:
    (found,) = directions([torch.tensor([1.0, float("inf")])])
    assert not matrix(found).isfinite().all()


def test_a_direction_fits_its_own_parameter_alone() -> None:
    (found,) = directions([torch.randn(40, 6, 5)])
    assert found is not None
    assert fits(found, torch.nn.Parameter(torch.zeros(40, 30)))
    assert not fits(found, torch.nn.Parameter(torch.zeros(40, 31)))
    assert not fits(found, torch.nn.Parameter(torch.zeros(41, 30)))
    assert not fits(found, torch.nn.Parameter(torch.zeros(40)))


def test_large_directions_take_little_memory() -> None:
    (found,) = directions([torch.randn(300, 400)])
    assert found is not None
    assert sum(part.numel() for part in found) == RANK * (300 + 400)
