"""One training run in this process, for tests of what it writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import models
from mireg.ablation.arms import Term
from mireg.ablation.data import Dataset, load
from mireg.ablation.events import EventHandler
from mireg.ablation.storage.files import read_result
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import fit
from mireg.ablation.training.run import Run, perform

DIGITS = load("digits", Path("data"))


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    return models.build(cell.model, cell.model_options, dataset.input_shape, dataset.outputs)


Build = Callable[[Cell, Dataset], nn.Module]


def train(
    spec: RunSpec,
    dataset: Dataset,
    build: Build,
    folder: Path,
    *,
    checkpoint_seconds: float = 1e9,
    tell: EventHandler = lambda event: None,
    stop: Callable[[], bool] = lambda: False,
) -> None:
    """Train on the CPU, by default with no checkpoint but the one that a stop leaves."""
    group = Group(torch.device("cpu"))
    begun = Run(spec, folder, group, tell=tell, stop=stop, checkpoint_seconds=checkpoint_seconds)
    perform(begun, lambda run: fit(run, dataset, build))


def train_digits(
    spec: RunSpec, folder: Path, *, build: Build = build, stop: Callable[[], bool] = lambda: False
) -> None:
    """The same on the digits."""
    train(spec, DIGITS, build, folder, stop=stop)


def run(folder: Path, cell: Cell, arm: str, *, tuning: bool = False) -> dict[str, Any]:
    """Train an arm with seed 0 on the digits, and return the result as it was written."""
    train_digits(RunSpec(cell, arm, 0, Term(), tuning), folder)
    result = read_result(folder / "result.json")
    assert result is not None
    return result
