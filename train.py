"""Ablation of the MI term: every arm from the same weights, on the same batches, over several seeds."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from torch import nn

import models
from eval.cells import CONVERGENCE
from mireg.ablation import command
from mireg.ablation.command.request import Catalogue
from mireg.ablation.data import Dataset
from mireg.ablation.study.config import Cell
from mireg.ablation.study.presets import PRESETS
from mireg.ablation.training import networks


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    """The network of a cell."""
    return networks.build_cell(cell, dataset, "models")


def catalogue() -> Catalogue:
    """The networks of :mod:`models`, those from outside, and the study of :mod:`eval` beside the package's presets."""
    presets = {**PRESETS, CONVERGENCE.name: CONVERGENCE}
    return Catalogue(tuple(models.REGISTRY), models.options, build, presets)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    return command.main(argv, catalogue(), "train.py")


if __name__ == "__main__":
    sys.exit(main())
