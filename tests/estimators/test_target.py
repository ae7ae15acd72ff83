"""Which rows of a target count, and its code."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from mireg.estimators.target import class_products, codes, countable

LIKE = torch.zeros(0)


@pytest.mark.parametrize(
    ("target", "counts"),
    [
        (torch.tensor([0, 0, 1, 2, 2]), [True, True, False, True, True]),
        (torch.tensor([5, -100, -100, 5]), [True, False, False, True]),
        (torch.tensor([0, 1, 2]), [False, False, False]),
        (torch.tensor([[1.0, torch.nan], [torch.nan, torch.nan], [torch.inf, 0.0]]), [True, False, True]),
    ],
    ids=str,
)
def test_rows_that_count(target: Tensor, counts: list[bool]) -> None:
    assert countable(target).tolist() == counts


def test_columns_are_classes_of_rows_that_count() -> None:
    code, kept = codes(torch.tensor([7, 7, 1, 9, -100, 9]), LIKE)
    assert code.tolist() == [[1, 0], [1, 0], [0, 0], [0, 1], [0, 0], [0, 1]]
    assert kept is not None
    assert kept.tolist() == [1, 1, 0, 1, 0, 1]
    code, kept = codes(torch.tensor([3, 3, 3]), LIKE)
    assert code.tolist() == [[1]] * 3
    assert kept is None


@pytest.mark.parametrize("target", [torch.arange(5), torch.full((5,), -100)])
def test_a_target_without_a_row_that_counts(target: Tensor) -> None:
    code, kept = codes(target, LIKE)
    assert not code.any()
    assert len(code) == 5
    assert kept is not None
    assert not kept.any()


def test_missing_values_are_the_mean_of_their_column() -> None:
    nan = torch.nan
    code, kept = codes(torch.tensor([[1.0, nan], [3.0, 4.0], [nan, torch.inf], [nan, 8.0]]), LIKE)
    assert code.tolist() == [[1.0, 6.0], [3.0, 4.0], [2.0, 6.0], [2.0, 8.0]]
    assert kept is not None
    assert kept.tolist() == [1, 1, 0, 1]
    empty, kept = codes(torch.full((3,), nan), LIKE)
    assert empty.tolist() == [[0.0]] * 3
    assert kept is not None
    assert not kept.any()


def test_products_of_classes() -> None:
    target = torch.randint(4, (20,))
    one_hot = torch.nn.functional.one_hot(target).double()
    code = class_products(target, torch.float64)
    torch.testing.assert_close(code @ code.T, one_hot @ one_hot.T)
