"""The order of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from mireg.ablation.data import Epochs, Loaded, Split, samples_in
from mireg.ablation.training.group import Group


class Batches(Iterator[Tensor]):
    """Iterates over batches of indices, each epoch in a new random order, without incomplete batches."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples = samples
        self.batch_size = min(batch_size, samples)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def __next__(self) -> Tensor:
        if self._next + self.batch_size > len(self._order):
            self._order = torch.randperm(self.samples, generator=self._generator)
            self._next = 0
        batch = self._order[self._next : self._next + self.batch_size]
        self._next += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "order": self._order, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())
        self._order = state["order"].cpu()
        self._next = state["next"]


class TrainingBatches(Iterator[tuple[Any, Any, int]]):
    """This process's part of each training batch, inputs and targets, and the size of the whole batch."""

    def __init__(self, split: Split, batch_size: int, seed: int, group: Group) -> None:
        self._split = split
        self._group = group
        self._order = Epochs(split, seed) if isinstance(split, Loaded) else Batches(len(split), batch_size, seed)

    def __next__(self) -> tuple[Any, Any, int]:
        if isinstance(self._order, Epochs):
            inputs, targets = next(self._order)
            return inputs, targets, samples_in(inputs)
        index = next(self._order)
        return (*self._split.batch(self._group.share(index).to(self._group.device)), len(index))

    def state_dict(self) -> dict[str, Any]:
        return self._order.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._order.load_state_dict(state)
