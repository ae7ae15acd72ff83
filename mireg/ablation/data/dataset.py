"""Data sets: separate parts for training, validation and testing, and the task."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import torch
from torch import Tensor

CLASSIFICATION, REGRESSION, NEXT_TOKEN = "classification", "regression", "next-token"


class Split(Protocol):
    """One part of a data set."""

    def __len__(self) -> int: ...

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the given samples, ready for a network and a loss."""

    def first(self, count: int) -> Split:
        """The first samples."""

    def to(self, device: torch.device) -> Split:
        """The same samples on a device."""


@dataclass(frozen=True)
class Samples:
    """Samples held in memory; bytes are standardised when they are read.

    Attributes:
        inputs: (n, ...): uint8 such as pixels, float32, or int64 tokens.
        targets: (n,) int64 classes; (n, k) float32; or (n, positions) int64 tokens.
        mean: mean of the bytes in the training set.
        std: standard deviation of the bytes in the training set.
    """

    inputs: Tensor
    targets: Tensor
    mean: float = 0.0
    std: float = 1.0

    def __len__(self) -> int:
        return len(self.targets)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs, (m, ...) float32 or int64 tokens, and targets of the given samples."""
        inputs = self.inputs[index]
        if inputs.dtype == torch.uint8:
            inputs = (inputs.float() - self.mean) / self.std
        return inputs, self.targets[index]

    def first(self, count: int) -> Samples:
        """The first samples."""
        return replace(self, inputs=self.inputs[:count], targets=self.targets[:count])

    def to(self, device: torch.device) -> Samples:
        """The same samples on a device."""
        return replace(self, inputs=self.inputs.to(device), targets=self.targets.to(device))


@dataclass(frozen=True)
class Windows:
    """Windows of one long sequence of tokens; the targets are the next tokens.

    Attributes:
        tokens: (n,) int64.
        starts: (m,) int64, where each window begins.
        context: tokens per window.
    """

    tokens: Tensor
    starts: Tensor
    context: int

    def __len__(self) -> int:
        return len(self.starts)

    def batch(self, index: Tensor | slice) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the given windows, both (m, context) int64."""
        places = self.starts[index][:, None] + torch.arange(self.context + 1, device=self.tokens.device)
        rows = self.tokens[places]
        return rows[:, :-1], rows[:, 1:]

    def first(self, count: int) -> Windows:
        """The first windows."""
        return replace(self, starts=self.starts[:count])

    def to(self, device: torch.device) -> Windows:
        """The same windows on a device."""
        return replace(self, tokens=self.tokens.to(device), starts=self.starts.to(device))


@dataclass(frozen=True)
class Dataset:
    """A data set in separate parts: targets refer to validation data, the final metric to test data.

    Attributes:
        name: the requested name.
        task: ``"classification"``, ``"regression"`` or ``"next-token"``.
        train: training data.
        validation: data for the curve.
        test: data for the final metric; if None, validation data are used.
        outputs: number of outputs a network needs: classes, values of the target, or size of the vocabulary.
    """

    name: str
    task: str
    train: Split
    validation: Split
    test: Split | None
    outputs: int

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input sample."""
        return tuple(self.train.batch(slice(0, 1))[0].shape[1:])

    @property
    def final(self) -> Split:
        """The data for the final metric."""
        return self.validation if self.test is None else self.test

    def to(self, device: torch.device) -> Dataset:
        """The same data set on a device."""
        test = None if self.test is None else self.test.to(device)
        return replace(self, train=self.train.to(device), validation=self.validation.to(device), test=test)
