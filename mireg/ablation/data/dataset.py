"""Data sets: separate parts for training, validation and testing, and the task."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from mireg.ablation.errors import UserError
from mireg.ablation.tasks import Task, TaskFactory, arguments, reconstruction

PARTS = ("train", "validation", "test")

Batch = tuple[Any, Any]
"""Inputs, a tensor or a tuple for a network of several inputs, and targets in the form that the task's loss takes."""


def moved(value: Any, device: torch.device) -> Any:
    """A tensor on a device, or anything else that has ``to``, or a tuple, list or dictionary of such."""
    if hasattr(value, "to"):
        return value.to(device)
    if isinstance(value, tuple | list):
        return type(value)(moved(item, device) for item in value)
    return {key: moved(item, device) for key, item in value.items()} if isinstance(value, dict) else value


class Split:
    """One part of a data set, of samples that can be indexed."""

    def __len__(self) -> int:
        raise NotImplementedError

    def batch(self, index: Tensor | slice) -> Batch:
        """Inputs and targets of the given samples, ready for a network and a loss."""
        raise NotImplementedError

    def first(self, count: int) -> Split:
        """The first samples."""
        raise NotImplementedError

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""
        raise NotImplementedError

    def chunks(self, size: int) -> Iterator[Batch]:
        """All samples in order, in batches of at most ``size``."""
        for start in range(0, len(self), size):
            yield self.batch(slice(start, start + size))


@dataclass(frozen=True)
class Samples(Split):
    """Samples held in memory; bytes are standardised when they are read.

    Attributes:
        inputs: (n, ...): uint8 such as pixels, float32, or int64 tokens; or a tuple of such tensors.
        targets: (n,) int64 classes; (n, k) float32; or (n, positions) int64 tokens. A task of one's own may take any
            tensor (n, ...) or tuple of tensors. None: the inputs themselves are the targets.
        mean: mean of the bytes in the training set.
        std: standard deviation of the bytes in the training set.
    """

    inputs: Any
    targets: Any
    mean: float = 0.0
    std: float = 1.0

    def __len__(self) -> int:
        return len(arguments(self.inputs)[0])

    def batch(self, index: Tensor | slice) -> Batch:
        """Inputs, (m, ...) float32 or int64 tokens, and targets of the given samples."""
        inputs = _each(self.inputs, lambda x: x[index])
        if isinstance(inputs, Tensor) and inputs.dtype == torch.uint8:
            inputs = (inputs.float() - self.mean) / self.std
        return inputs, inputs if self.targets is None else _each(self.targets, lambda y: y[index])

    def first(self, count: int) -> Samples:
        inputs, targets = (_each(part, lambda x: x[:count]) for part in (self.inputs, self.targets))
        return replace(self, inputs=inputs, targets=targets)

    def to(self, device: torch.device) -> Samples:
        return replace(self, inputs=moved(self.inputs, device), targets=moved(self.targets, device))


def _each(value: Any, do: Any) -> Any:
    if value is None:
        return None
    return tuple(do(item) for item in value) if isinstance(value, tuple) else do(value)


def mean_and_std(x: Tensor) -> tuple[float, float]:
    """By which bytes are standardised; a deviation below 1, as of one colour, counts as 1."""
    x = x.float()
    return x.mean().item(), max(x.std().item(), 1.0)


@dataclass(frozen=True)
class Windows(Split):
    """Windows of (n,) int64 tokens, each ``context`` long from one of the (m,) int64 starts; targets are the next."""

    tokens: Tensor
    starts: Tensor
    context: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: Tensor | slice) -> Batch:
        """Inputs and targets of the given windows, both (m, context) int64."""
        places = self.starts[index][:, None] + torch.arange(self.context + 1, device=self.tokens.device)
        rows = self.tokens[places]
        return rows[:, :-1], rows[:, 1:]

    def first(self, count: int) -> Windows:
        return replace(self, starts=self.starts[:count])

    def to(self, device: torch.device) -> Windows:
        return replace(self, tokens=self.tokens.to(device), starts=self.starts.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in separate parts: targets refer to validation data, the final metric to test data.

    Attributes:
        name: the requested name.
        task: the loss, the metrics and the number of outputs that a network needs.
        train: training data.
        validation: data for the curve.
        test: data for the final metric; if None, validation data are used.
    """

    name: str
    task: Task
    train: Split
    validation: Split
    test: Split | None = None

    @property
    def outputs(self) -> int:
        """Number of outputs that a network needs."""
        return self.task.outputs

    @property
    def input_shape(self) -> tuple[Any, ...]:
        """Shape of one input sample; of a network of several inputs, the shape of each."""
        inputs = self.train.batch(slice(0, 1))[0]
        shapes = tuple(tuple(x.shape[1:]) if isinstance(x, Tensor) else None for x in arguments(inputs))
        return shapes if isinstance(inputs, tuple) else shapes[0] or ()

    @property
    def final(self) -> Split:
        """The data for the final metric."""
        return self.validation if self.test is None else self.test

    def with_task(self, task: Task | TaskFactory) -> Dataset:
        """The same samples for another task, if they suit it."""
        if task == reconstruction:
            parts = [self.train, self.validation, self.final]
            if not all(isinstance(part, Samples) for part in parts):
                raise UserError(f"task 'reconstruction' needs samples in memory, and {self.name} has none")
            inputs = (replace(part, targets=None) for part in parts)  # type: ignore[type-var]
            return Dataset(self.name, reconstruction(math.prod(self.input_shape)), *inputs)
        return replace(self, task=task if isinstance(task, Task) else task(self.outputs))

    def to(self, device: torch.device) -> Dataset:
        """The same data set on a device."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), validation=self.validation.to(device), test=test)
