"""What a study is: cells, arms and seeds."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from mireg import estimators
from mireg.ablation.data import DATASETS
from mireg.ablation.errors import UserError
from mireg.regularizer import MIRegularizer, for_training
from mireg.schedules import Linear

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names that may become part of a path."""

MOST_SEEDS = 10_000
"""A larger number is a slip of the keyboard."""

OPTIMIZERS = ("adam", "sgd")


@dataclass(frozen=True)
class Cell:
    """One task: a network on a data set, with the accuracy to reach and the steps it may take.

    Attributes:
        name: in tables, paths and TensorBoard.
        dataset: see :data:`mireg.ablation.data.DATASETS`.
        model: a name that the caller's model builder knows.
        model_options: of that model, where they differ from its defaults.
        target: validation accuracy, in [0, 1].
        steps: budget of one run.
        batch_size: samples per step.
        eval_every: steps between evaluations.
        optimizer: ``"adam"``, or ``"sgd"`` with momentum 0.9.
        lr: learning rate.
        arm_lr: learning rates of arms whose own tuning gave another one.
        lr_divisor: the learning rate is divided by it once more per layer towards the input.
        diagnostics: measure what :func:`mireg.ablation.diagnose.diagnose` does at each evaluation.
    """

    name: str
    dataset: str
    model: str
    target: float
    steps: int
    model_options: Mapping[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    eval_every: int = 25
    optimizer: str = "adam"
    lr: float = 1e-3
    arm_lr: Mapping[str, float] = field(default_factory=dict)
    lr_divisor: float = 1.0
    diagnostics: bool = False

    def __post_init__(self) -> None:
        _check_name("cell", self.name)
        _check("dataset", self.dataset, self.dataset in DATASETS, f"choose from {', '.join(DATASETS)}")
        _check("optimizer", self.optimizer, self.optimizer in OPTIMIZERS, f"choose from {', '.join(OPTIMIZERS)}")
        _check("target", self.target, 0 < self.target <= 1, "give an accuracy above 0 and at most 1")
        _check("steps", self.steps, self.steps >= 1, "give at least 1")
        _check("batch_size", self.batch_size, self.batch_size >= 2, "MI needs at least 2 samples in a batch")
        _check("eval_every", self.eval_every, self.eval_every >= 1, "give at least 1")
        _check("lr_divisor", self.lr_divisor, 1 <= self.lr_divisor < math.inf, "give at least 1")
        for lr in (self.lr, *self.arm_lr.values()):
            _check("lr", lr, math.isfinite(lr) and lr > 0, "give a positive number")

    def lr_of(self, arm: str) -> float:
        """The learning rate of an arm."""
        return self.arm_lr.get(arm, self.lr)


@dataclass(frozen=True)
class Term:
    """Settings of the MI term, the same for every arm that has it.

    Attributes:
        weight: at the first step, relative to the task's gradient (:class:`mireg.balance.GradientBalance`).
        decay_steps: steps over which it falls to 0.
        samples: rows of each batch that the estimate uses.
        layers: as for :func:`mireg.wrap`.
    """

    weight: float = 1.0
    decay_steps: int = 200
    samples: int = 32
    layers: tuple[str, ...] = ("auto",)

    def __post_init__(self) -> None:
        _check("weight", self.weight, math.isfinite(self.weight) and self.weight >= 0, "give at least 0")
        _check("decay_steps", self.decay_steps, self.decay_steps >= 1, "give at least 1")
        _check("samples", self.samples, self.samples >= 2, "an estimate needs at least 2")

    def regularizer(self, arm: str) -> MIRegularizer | None:
        """The term as an arm has it; None for the baseline.

        Raises:
            UserError: if there is no such arm.
        """
        if arm not in ARMS:
            raise UserError(f"unknown arm {arm!r}: choose from {', '.join(ARMS)}")
        if arm == BASELINE:
            return None
        shuffled = arm == "mi-shuffled"
        estimator = "kde" if arm in ("mi", "mi-shuffled") else arm.removeprefix("mi-")
        return MIRegularizer(
            for_training(estimator),
            Linear(self.weight, self.decay_steps),
            samples=self.samples,
            gather=True,
            shuffled=shuffled,
        )


BASELINE = "none"


def _arms() -> dict[str, str]:
    arms = {
        BASELINE: "the network as it is",
        "mi": "what mireg.wrap(model) does",
        "mi-shuffled": "control: the same term on rows that do not belong together",
    }
    for name in estimators.names():
        if estimators.REGISTRY[name].is_differentiable:
            arms[f"mi-{name}"] = arms[name] = f"the term with the {name} estimator"
    return arms


ARMS = _arms()
"""Arms by name; an estimator's own name is short for the arm that rewards with it."""


@dataclass(frozen=True)
class Study:
    """Cells x arms x seeds: every arm of a cell starts from the same weights and sees the same batches.

    Attributes:
        name: of the study.
        cells: tasks.
        arms: see :data:`ARMS`.
        seeds: number of seeds, counted from ``first_seed``.
        first_seed: so that final runs can keep clear of the seeds that settings were chosen on.
        term: settings of the MI term.
    """

    name: str
    cells: tuple[Cell, ...]
    arms: tuple[str, ...]
    seeds: int = 5
    first_seed: int = 0
    term: Term = field(default_factory=Term)

    def __post_init__(self) -> None:
        _check_name("study", self.name)
        _check("seeds", self.seeds, 1 <= self.seeds <= MOST_SEEDS, f"give at least 1 and at most {MOST_SEEDS}")
        _check("arms", self.arms, len(self.arms) > 0, "name at least one")
        _check("arms", self.arms, len(set(self.arms)) == len(self.arms), "name each once")
        for arm in self.arms:
            self.term.regularizer(arm)

    @property
    def seed_numbers(self) -> range:
        """The seeds."""
        return range(self.first_seed, self.first_seed + self.seeds)

    def runs(self) -> list[RunSpec]:
        """Every run, the seeds outermost so that an interrupted study holds whole pairs."""
        return [
            RunSpec(cell, arm, seed, self.term)
            for seed in self.seed_numbers
            for cell in self.cells
            for arm in self.arms
        ]


@dataclass(frozen=True)
class RunSpec:
    """One training run."""

    cell: Cell
    arm: str
    seed: int
    term: Term

    @property
    def path(self) -> str:
        """Where the run lies below the study's ``runs`` folder, and its name in TensorBoard."""
        return f"{self.cell.name}/{self.arm}/seed-{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The specification in plain types."""
        return asdict(self)


def _check(name: str, value: object, good: bool, remedy: str) -> None:
    if not good:
        raise UserError(f"{name}={value!r}: {remedy}")


def _check_name(what: str, name: str) -> None:
    _check(what, name, NAME.fullmatch(name) is not None, "use letters, digits, '.', '_' and '-' alone")
