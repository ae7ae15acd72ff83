"""The order of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mireg.ablation.data import Batch, Loaded, Split
from mireg.ablation.training.group import Group


class Batches(Iterator[Batch]):
    """Training batches without end: each epoch in an order of its own, the same for every arm of a seed.

    A loader's batches are as it gives them. Of samples in memory, incomplete batches are left out, and a process of a
    group gets its part of each batch.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, group: Group) -> None:
        self._split = split
        self._group = group
        self._size = batch_size
        self._seed = seed
        self._generator = torch.Generator().manual_seed(seed)
        self._begin(0)

    def _begin(self, epoch: int) -> None:
        self._epoch, self._taken, self._before = epoch, 0, self._generator.get_state()
        if isinstance(self._split, Loaded):
            self._batches = self._split.read(1 + self._seed * 1_000_003 + epoch)
        else:
            order = torch.randperm(len(self._split), generator=self._generator)
            self._batches = self._in_order(order)

    def _in_order(self, order: torch.Tensor) -> Iterator[Batch]:
        size = min(self._size, len(order))
        for index in order[: len(order) // size * size].split(size):
            yield self._split.batch(self._group.share(index).to(self._group.device))

    def __next__(self) -> Batch:
        batch = next(self._batches, None)
        if batch is None:
            self._begin(self._epoch + 1)
            batch = next(self._batches)
        self._taken += 1
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self._epoch, "taken": self._taken, "generator": self._before}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())
        self._begin(state["epoch"])
        for _ in range(state["taken"]):
            next(self)
