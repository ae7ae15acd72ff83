"""Definition of a study: cells, arms and seeds."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from mireg.ablation.arms import Term
from mireg.ablation.arms import arm as named_arm
from mireg.ablation.data import CONTEXT, DATASETS, FORMS, is_dataset
from mireg.ablation.errors import UserError, check
from mireg.ablation.setting import check_settings, setting
from mireg.ablation.study.metric import MODES, Metric

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
"""Names that may become part of a path."""

MOST_SEEDS = 10_000
"""A larger number is taken for a typing error."""

OF_STUDY = {"of_study": True}
"""Marks fields of a cell that determine which runs there are, but do not affect a run."""


@dataclass(frozen=True)
class Cell:
    """A network on a data set, with a target and a budget of steps.

    ``mireg --help`` describes the settings that are options of the command line as well.

    Attributes:
        name: the name in tables, paths and TensorBoard.
        model_options: options of the model, where they differ from its defaults.
        betas: betas of Adam and AdamW.
        arm_lr: learning rates of arms that were tuned to a different one.
        arms: arms of this cell; overrides the study's.
        seeds: number of seeds of this cell; overrides the study's.
        tuning_steps: budget of a tuning run, if smaller than that of a run.
        tuning_lrs: learning rates to choose from; overrides the study's. A single one is taken as it is.
        arm_tuning_lrs: the same for arms with a different optimizer, whose rates have a different scale; all arms must
            have the same number of rates.
        budget_of: name of the cell that this one repeats with a different budget and only the baseline, to compute the
            steps that an arm saves.
        mode: the better direction of a metric that is not the trainer's own: ``"max"`` or ``"min"``.
    """

    name: str
    dataset: str = setting(
        "Data set: a name, package.module:loader, folder:PATH or text:FILE; see docs/own_network.md."
    )
    model: str = setting("Network: a name, package.module:factory, timm:NAME or torchvision:NAME.")
    target: float | None = setting(
        "Value of the metric on validation data that is to be reached, in the metric's own unit; without one, speed is "
        "not compared.",
        name="goal",
        other="target",
    )
    steps: int = setting("Training steps of each run.", least=1)
    model_options: Mapping[str, Any] = field(default_factory=dict)
    task: str | None = setting(
        "A name that --list shows, or package.module:TASK; by default the data's own. See docs/tasks.md.", None
    )
    metric: str = setting("One of the task's: accuracy, loss, ...", "accuracy")
    batch_size: int = setting("Samples per step.", 128)
    eval_every: int = setting("Steps between evaluations.", 25, least=1)
    lr: float = setting("Peak learning rate, of all arms; a preset that tunes it then does not.", 1e-3)
    optimizer: str = setting(
        "adam, adamw, sgd (Nesterov), or muon for the matrices of hidden layers with AdamW for the rest.",
        "adam",
        choices=("adam", "adamw", "sgd", "muon"),
    )
    schedule: str = setting(
        "Of the learning rate: constant, or cosine or linear down to 0 at the last step.",
        "constant",
        choices=("constant", "cosine", "linear"),
    )
    warmup_steps: int = setting("Steps in which the learning rate rises from 0.", 0)
    weight_decay: float = setting("Of parameters of at least two dimensions.", 0.0, least=0)
    momentum: float = setting("Of sgd.", 0.9, least=0)
    betas: tuple[float, float] = (0.9, 0.999)
    augment: str = setting("none, or flip-crop for images.", "none", choices=("none", "flip-crop"))
    precision: str = setting(
        "Of the forward pass: float32, bfloat16, or float16 with loss scaling.",
        "float32",
        choices=("float32", "bfloat16", "float16"),
    )
    compile: bool = setting("Train with torch.compile.", False)
    arm_lr: Mapping[str, float] = field(default_factory=dict)
    arms: tuple[str, ...] = field(default=(), metadata=OF_STUDY)
    seeds: int | None = field(default=None, metadata=OF_STUDY)
    tuning_steps: int | None = field(default=None, metadata=OF_STUDY)
    tuning_lrs: tuple[float, ...] = field(default=(), metadata=OF_STUDY)
    arm_tuning_lrs: Mapping[str, tuple[float, ...]] = field(default_factory=dict, metadata=OF_STUDY)
    budget_of: str | None = None
    mode: str | None = None

    def __post_init__(self) -> None:
        _check_name("cell", self.name)
        check("dataset", self.dataset, is_dataset(self.dataset), f"choose from {', '.join([*DATASETS, *FORMS])}")
        check_settings(self)
        check("warmup_steps", self.warmup_steps, 0 <= self.warmup_steps <= self.steps, "give 0 to the number of steps")
        check("momentum", self.momentum, self.momentum < 1, "give less than 1")
        known = self.metric in MODES or self.mode is not None
        check("metric", self.metric, known, f"choose from {', '.join(MODES)}")
        _check_goal(self)
        check("batch_size", self.batch_size, self.batch_size >= 2, "MI needs at least 2 samples in a batch")
        _check_rates(self.lr, *self.arm_lr.values(), *self.tuning_lrs, *itertools.chain(*self.arm_tuning_lrs.values()))
        _check_arms(self.arms)
        if self.seeds is not None:
            _check_seeds(self.seeds)
        check("tuning_steps", self.tuning_steps, self.tuning_steps is None or self.tuning_steps >= 1, "give at least 1")

    @property
    def measured(self) -> Metric:
        """The metric and its direction."""
        return Metric(self.metric, self.mode or MODES[self.metric])

    @property
    def context(self) -> int:
        """Context length in characters, for text."""
        try:
            return int(self.model_options.get("context", CONTEXT))
        except ValueError:
            raise UserError(f"context={self.model_options['context']!r}: give a whole number") from None

    @property
    def tuning_budget(self) -> int:
        """Budget of a tuning run."""
        return min(self.steps, self.tuning_steps or self.steps)

    def lr_of(self, arm: str) -> float:
        """The learning rate of an arm."""
        return self.arm_lr.get(arm, self.lr)

    def as_trained(self, name: str) -> Cell:
        """The cell with the changes that an arm makes."""
        arm = named_arm(name)
        return replace(
            self,
            model_options={**self.model_options, **arm.model_options},
            optimizer=arm.optimizer or self.optimizer,
            warmup_steps=self.warmup_steps if arm.warmup_steps is None else min(arm.warmup_steps, self.steps),
        )


@dataclass(frozen=True)
class Loop(Cell):
    """A user's own training loop as a cell: its data, network and recipe are its own.

    Its arms may have any name, and its steps are known only when it has run.
    """

    def __post_init__(self) -> None:
        _check_name("name", self.name)
        _check_goal(self)
        Metric(self.metric, self.mode or MODES.get(self.metric, ""))
        own = MODES.get(self.metric, self.mode)
        remedy = f"{self.metric} has mode {own!r}; give it, or another name to the metric"
        check("mode", self.mode, self.mode in (None, own), remedy)

    def as_trained(self, name: str) -> Loop:
        """The loop itself, which does what the arm asks."""
        return self

    def as_dict(self) -> dict[str, Any]:
        """What there is to say about it, in plain types."""
        kept = {key: getattr(self, key) for key in ("name", "metric", "mode", "target", "steps", "arm_lr")}
        return {**kept, "lr": self.lr or None}


@dataclass(frozen=True)
class Tuning:
    """Settings for tuning the learning rate of every arm of every cell, with the same grid and seeds for all.

    Attributes:
        lrs: learning rates to choose from; a single one is taken as it is.
        seeds: number of seeds, counted from ``first_seed``; the study's own runs do not use them.
        first_seed: first seed of the tuning runs.
    """

    lrs: tuple[float, ...]
    seeds: int = 2
    first_seed: int = 0

    def __post_init__(self) -> None:
        check("lrs", self.lrs, len(self.lrs) > 0, "name at least one")
        _check_rates(*self.lrs)
        _check_seeds(self.seeds)

    @property
    def seed_numbers(self) -> range:
        """The seeds of the tuning runs."""
        return range(self.first_seed, self.first_seed + self.seeds)


@dataclass(frozen=True)
class Study:
    """Cells x arms x seeds: every arm of a cell starts from the same weights and sees the same batches.

    Attributes:
        name: name of the study.
        cells: the cells.
        arms: see :data:`mireg.ablation.arms.ARMS`.
        seeds: number of seeds, counted from ``first_seed``.
        first_seed: lets final runs avoid the seeds on which settings were chosen.
        term: settings of the MI term.
        tuning: tuning of the learning rates; None uses those of the cells.
    """

    name: str
    cells: tuple[Cell, ...]
    arms: tuple[str, ...] = setting(
        "Arms to compare: names, 'none' being the network as it is, or package.module:Arm; see docs/tasks.md."
    )
    seeds: int = setting("Number of seeds; each arm runs with every one.", 5)
    first_seed: int = 0
    term: Term = field(default_factory=Term)
    tuning: Tuning | None = None

    def __post_init__(self) -> None:
        _check_name("study", self.name)
        _check_seeds(self.seeds)
        check("arms", self.arms, len(self.arms) > 0, "name at least one")
        _check_arms(self.arms, of_loop=all(isinstance(cell, Loop) for cell in self.cells))
        if self.tuning:
            used = set(self.seed_numbers).intersection(self.tuning.seed_numbers)
            check("first_seed", self.first_seed, not used, "keep clear of the seeds that tuning uses")
            for cell in self.cells:
                number = len(cell.tuning_lrs or self.tuning.lrs)
                for arm, lrs in cell.arm_tuning_lrs.items():
                    check(f"arm_tuning_lrs of {arm}", lrs, len(lrs) == number, f"give {number}, as other arms have")

    @property
    def seed_numbers(self) -> range:
        """The seeds of the cell with the most seeds."""
        return range(self.first_seed, self.first_seed + max(self.seeds_of(cell) for cell in self.cells))

    @property
    def all_arms(self) -> tuple[str, ...]:
        """The arms of all cells."""
        return tuple(dict.fromkeys(arm for cell in self.cells for arm in self.arms_of(cell)))

    def arms_of(self, cell: Cell) -> tuple[str, ...]:
        """The arms of a cell."""
        return cell.arms or self.arms

    def seeds_of(self, cell: Cell) -> int:
        """Number of seeds of a cell."""
        return self.seeds if cell.seeds is None else cell.seeds

    def lrs_of(self, cell: Cell, arm: str) -> tuple[float, ...]:
        """The learning rates among which an arm of a cell is tuned."""
        assert self.tuning is not None
        return cell.arm_tuning_lrs.get(arm) or cell.tuning_lrs or self.tuning.lrs

    def is_tuned(self, cell: Cell) -> bool:
        """Whether the arms of a cell have several learning rates to choose from."""
        return self.tuning is not None and len(cell.tuning_lrs or self.tuning.lrs) > 1

    def runs(self) -> list[RunSpec]:
        """All runs, ordered by seed first, so that an interrupted study has complete pairs."""
        return [
            RunSpec(self._at_its_rate(cell, arm).as_trained(arm), arm, seed, self.term)
            for seed in self.seed_numbers
            for cell in self.cells
            for arm in self.arms_of(cell)
            if seed < self.first_seed + self.seeds_of(cell)
        ]

    def _at_its_rate(self, cell: Cell, arm: str) -> Cell:
        """The cell with the only learning rate that the arm has, if tuning leaves no choice."""
        if self.tuning is None or self.is_tuned(cell):
            return cell
        return replace(cell, lr=self.lrs_of(cell, arm)[0], arm_lr={})

    def tuning_runs(self, cell: Cell) -> list[RunSpec]:
        """The runs for choosing the learning rates of a cell's arms; none if there is no choice."""
        if self.tuning is None or not self.is_tuned(cell):
            return []
        return [
            RunSpec(
                replace(cell.as_trained(arm), steps=cell.tuning_budget, lr=lr, arm_lr={}),
                arm,
                seed,
                self.term,
                tuning=True,
            )
            for seed in self.tuning.seed_numbers
            for arm in self.arms_of(cell)
            for lr in self.lrs_of(cell, arm)
        ]

    def tuning_settings(self) -> dict[str, Any]:
        """The grid, its seeds and, by cell, the budget of a tuning run and any separate grid; empty without tuning."""
        if self.tuning is None:
            return {}
        steps = {cell.name: cell.tuning_budget for cell in self.cells if self.is_tuned(cell)}
        own = {
            cell.name: {arm: lrs for arm in self.arms_of(cell) if (lrs := self.lrs_of(cell, arm)) != self.tuning.lrs}
            for cell in self.cells
        }
        return {**asdict(self.tuning), "steps": steps, "lrs_of": {name: of for name, of in own.items() if of}}


@dataclass(frozen=True)
class RunSpec:
    """One training run.

    Attributes:
        cell: the cell with the arm's changes, see :meth:`Cell.as_trained`.
        arm: name of the arm.
        seed: seed of the weights and of the order of the data.
        term: settings of the MI term.
        tuning: whether the run serves to choose a learning rate: it ends at the target and never uses the test set.
    """

    cell: Cell
    arm: str
    seed: int
    term: Term
    tuning: bool = False

    @property
    def lr(self) -> float:
        """The learning rate."""
        return self.cell.lr_of(self.arm)

    def at(self, rates: Mapping[str, float]) -> RunSpec:
        """The run with the learning rates that tuning has chosen for the arms of its cell."""
        return replace(self, cell=replace(self.cell, arm_lr=rates))

    @property
    def path(self) -> str:
        """The run's name in TensorBoard and in messages."""
        if self.tuning:
            return f"tuning/{self.cell.name}/{self.arm}/lr-{self.lr!r}/seed-{self.seed}"
        return f"{self.cell.name}/{self.arm}/seed-{self.seed}"

    def as_dict(self) -> dict[str, Any]:
        """The specification in plain types."""
        return {**asdict(self), **({"cell": self.cell.as_dict()} if isinstance(self.cell, Loop) else {})}


def _check_arms(arms: tuple[str, ...], *, of_loop: bool = False) -> None:
    """Check the names of arms; a loop may have some of its own."""
    check("arms", arms, len(set(arms)) == len(arms), "name each once")
    for arm in arms:
        if ":" in arm or not of_loop:
            named_arm(arm)
        if of_loop:
            _check_name("arm", arm.replace(":", "."))


def _check_goal(cell: Cell) -> None:
    cell.measured.check_goal(cell.target)
    if cell.target is not None and cell.metric == "loss" and cell.task is None and not isinstance(cell, Loop):
        check("goal", cell.target, cell.target > 0, "give a loss above 0, which none goes below")


def _check_rates(*rates: float) -> None:
    for lr in rates:
        check("lr", lr, math.isfinite(lr) and lr > 0, "give a positive number")


def _check_seeds(seeds: int) -> None:
    check("seeds", seeds, 1 <= seeds <= MOST_SEEDS, f"give at least 1 and at most {MOST_SEEDS}")


def _check_name(what: str, name: str) -> None:
    check(what, name, NAME.fullmatch(name) is not None, "use letters, digits, '.', '_' and '-' only")
