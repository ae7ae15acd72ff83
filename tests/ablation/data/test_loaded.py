"""Batches from a loader: the same for every arm, continued exactly, and without a trace in the run's random numbers."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Dataset, WeightedRandomSampler

from mireg.ablation.data import Loaded, graph
from mireg.ablation.errors import UserError
from mireg.ablation.training.batches import Batches
from mireg.ablation.training.group import Group


class Noisy(Dataset[Any]):
    """Draws from torch's and numpy's streams whenever it is read."""

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        return torch.tensor([index, torch.rand(()), np.random.rand()]).float(), index % 2


def loaders() -> list[DataLoader[Any]]:
    sampler = WeightedRandomSampler([1.0] * 10, 10, generator=torch.Generator().manual_seed(5))
    return [
        DataLoader(Noisy(), 4, shuffle=True),
        DataLoader(Noisy(), 4, shuffle=True, generator=torch.Generator()),
        DataLoader(Noisy(), 4, sampler=sampler),
    ]


def epochs(split: Loaded, seed: int) -> Batches:
    return Batches(split, 4, seed, Group(torch.device("cpu")))


def take(epochs: Batches, count: int) -> list[list[Any]]:
    return [x.tolist() for x, _ in itertools.islice(epochs, count)]


@pytest.mark.parametrize("loader", loaders(), ids=["shuffled", "generator", "sampler"])
def test_order_and_transforms_depend_on_the_seed_alone(loader: DataLoader[Any]) -> None:
    torch.manual_seed(1)
    whole = take(epochs(Loaded(loader, "mine"), 7), 8)
    outside = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(outside, torch.rand(3))
    torch.manual_seed(2)
    assert take(epochs(Loaded(loader, "mine"), 7), 8) == whole
    assert whole[:3] != whole[3:6]  # another epoch
    assert take(epochs(Loaded(loader, "mine"), 8), 3) != whole[:3]
    for count in (0, 2, 3, 7):
        begun = epochs(Loaded(loader, "mine"), 7)
        take(begun, count)
        again = epochs(Loaded(loader, "mine"), 7)
        again.load_state_dict(begun.state_dict())
        assert take(again, 8 - count) == whole[count:]


def test_an_evaluation_always_sees_the_same() -> None:
    split = Loaded(loaders()[0], "mine")
    first, second = ([x.tolist() for x, _ in split.chunks(1000)] for _ in range(2))
    assert first == second
    assert [len(x) for x in first] == [4, 4, 2]
    assert [len(x) for x, _ in split.first(5).chunks(1000)] == [4, 4]
    assert len(split.batch(slice(0, 1))[0]) == 4


def test_a_graph_is_one_batch_with_the_nodes_of_each_part() -> None:
    x, edges, y = torch.randn(4, 3), torch.zeros(2, 5), torch.arange(4) % 2
    masks = (torch.tensor([True, True, False, False]), torch.tensor([False, False, True, True]))
    train, validation = (Loaded(part, "graph") for part in graph((x, edges), y, masks))
    inputs, targets = next(epochs(train, 0))
    assert [item.shape for item in inputs] == [(4, 3), (2, 5)]
    assert targets.tolist() == [0, 1, -100, -100]
    assert validation.batch(slice(None))[1].tolist() == [-100, -100, 0, 1]


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([(1, 2)]), "mine is an iterator, which ends"),
        ([], "mine has no batch"),
        ([{"x": 1}], "mine: a batch is a dict of 1: give"),
        ([(1,)], "mine: a batch is a tuple of 1"),
    ],
)
def test_what_holds_no_batches(batches: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        Loaded(batches, "mine").batch(slice(None))
