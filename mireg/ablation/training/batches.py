"""The order of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch

from mireg.ablation.data import Batch, Split
from mireg.ablation.training.group import Group


class Batches(Iterator[Batch]):
    """Inputs and targets of batches, each epoch in a new random order, without incomplete batches.

    A process of a group gets its part of each batch.
    """

    def __init__(self, split: Split, batch_size: int, seed: int, group: Group) -> None:
        self._split = split
        self._group = group
        self._size = min(batch_size, len(split))
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def __next__(self) -> Batch:
        if self._next + self._size > len(self._order):
            self._order = torch.randperm(len(self._split), generator=self._generator)
            self._next = 0
        index = self._order[self._next : self._next + self._size]
        self._next += self._size
        return self._split.batch(self._group.share(index).to(self._group.device))

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "order": self._order, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())
        self._order = state["order"].cpu()
        self._next = state["next"]
