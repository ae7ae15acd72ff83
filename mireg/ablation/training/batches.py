"""The order of the data."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


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
