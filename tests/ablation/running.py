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
from mireg.ablation.storage.files import read_result
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import train

DIGITS = load("digits", Path("data"))


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    return models.build(cell.model, cell.model_options, dataset.input_shape, dataset.outputs)


Build = Callable[[Cell, Dataset], nn.Module]


def train_digits(
    spec: RunSpec, folder: Path, *, build: Build = build, stop: Callable[[], bool] = lambda: False
) -> None:
    """Train on the digits, on the CPU, with no checkpoint but the one that a stop leaves."""
    train(
        spec,
        DIGITS,
        build,
        folder,
        group=Group(torch.device("cpu")),
        checkpoint_seconds=1e9,
        tell=lambda event: None,
        stop=stop,
    )


def run(folder: Path, cell: Cell, arm: str, *, tuning: bool = False) -> dict[str, Any]:
    """Train an arm with seed 0 on the digits, and return the result as it was written."""
    train_digits(RunSpec(cell, arm, 0, Term(), tuning), folder)
    result = read_result(folder / "result.json")
    assert result is not None
    return result
