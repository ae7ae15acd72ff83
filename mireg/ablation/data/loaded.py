"""Samples that do not fit into one tensor: the batches of a DataLoader, or of any collection of batches."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from mireg.ablation.data.dataset import Batch, Split, moved
from mireg.ablation.errors import UserError
from mireg.ablation.random_state import random_state, seed_cpu, set_random_state
from mireg.ablation.tasks import arguments

CPU = torch.device("cpu")


@dataclass(eq=False)
class Loaded(Split):
    """A part whose batches come from elsewhere, each (inputs, targets) or (input, input, ..., targets).

    They are a ``torch.utils.data.DataLoader``, or another collection that can be read again and again, and end after
    the batch that has the sample number ``most``. The name is the one in messages.
    """

    batches: Iterable[Any]
    name: str
    device: torch.device = CPU
    most: int | None = None

    @cached_property
    def _example(self) -> Batch:
        return next(self.read(0))

    def batch(self, index: Tensor | slice) -> Batch:
        """The first batch as it is: of these samples none can be taken out."""
        return self._example

    def first(self, count: int) -> Loaded:
        """The first batches that hold as many samples."""
        return replace(self, most=count)

    def to(self, device: torch.device) -> Loaded:
        return replace(self, device=device)

    def chunks(self, size: int) -> Iterator[Batch]:
        """All batches, in the order of the loader; always the same ones, even if it shuffles."""
        return self.read(0)

    def read(self, seed: int) -> Iterator[Batch]:
        """One pass through the loader, whose order and random transforms depend on the seed alone."""
        if isinstance(self.batches, Iterator):
            raise UserError(f"{self.name} is an iterator, which ends: give a DataLoader or a list of batches")
        sampler = getattr(self.batches, "sampler", None)
        for owner in (self.batches, sampler):
            if (generator := getattr(owner, "generator", None)) is not None:
                generator.manual_seed(seed)
        if callable(set_epoch := getattr(sampler, "set_epoch", None)):
            set_epoch(seed)
        seen = 0
        inside: dict[str, Any] = {}  # the loader's own random state
        batches: Iterator[Any] = iter(())
        while self.most is None or seen < self.most:
            outside = random_state(CPU)
            try:
                if inside:
                    set_random_state(inside, CPU)
                else:
                    seed_cpu(seed)
                    batches = iter(self.batches)
                found = next(batches, None)
                inside = random_state(CPU)
            finally:
                set_random_state(outside, CPU)
            if found is None:
                break
            inputs, targets = self._pair(found)
            seen += samples_in(inputs)
            yield moved(inputs, self.device), moved(targets, self.device)
        if not seen:
            raise UserError(f"{self.name} has no batch")

    def _pair(self, found: Any) -> Batch:
        if not isinstance(found, tuple | list) or len(found) < 2:
            what = f"{type(found).__name__} of {len(found)}" if hasattr(found, "__len__") else type(found).__name__
            raise UserError(f"{self.name}: a batch is a {what}: give (inputs, targets)")
        *inputs, targets = found
        if len(inputs) > 1:
            return tuple(inputs), targets
        return (tuple(inputs[0]) if isinstance(inputs[0], tuple | list) else inputs[0]), targets


def samples_in(inputs: Any) -> int:
    """Number of samples in a batch, by its first input."""
    return len(arguments(inputs)[0])


def graph(inputs: Any, targets: Tensor, masks: tuple[Tensor, ...]) -> tuple[list[Batch], ...]:
    """The parts of one graph, which is the whole batch at every step; only its nodes are divided.

    Args:
        inputs: the network's inputs, as in ``(features, edges)``.
        targets: (nodes,) int64 classes.
        masks: (nodes,) bool for training, validation and, if there is one, testing: the nodes of each part.

    Returns:
        Parts for a loader to return. Targets of other nodes are -100, which loss, metric and term skip.
    """
    return tuple([(inputs, targets.masked_fill(~mask, -100))] for mask in masks)
