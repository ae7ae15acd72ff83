"""Ablation of the MI term: every arm from the same weights, on the same batches, over several seeds."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import torch
import tyro
from rich.console import Console
from torch import nn

import models
from eval import report
from mireg import estimators
from mireg.ablation.config import ARMS, Cell, Study
from mireg.ablation.data import DATASETS, Dataset
from mireg.ablation.errors import UserError
from mireg.ablation.grid import RUNS, run_study
from mireg.ablation.presets import PRESETS


@dataclass(frozen=True)
class Arguments:
    """Train a network with and without the MI term, over paired seeds, and compare.

    What is not given is taken from the preset. The same command again continues where it stopped.
    """

    preset: str = "demo"
    """Named study; --list prints them."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print presets, datasets, models, arms and estimators, and stop."""
    arms: tuple[str, ...] = ()
    """Arms to compare, 'none' being the network as it is."""
    seeds: int | None = None
    """Number of seeds; each arm runs with every one."""
    steps: int | None = None
    """Training steps of each run."""
    dataset: str | None = None
    """Data set; with it or --model the preset's cells shrink to one of your own."""
    model: str | None = None
    """Network."""
    model_options: tuple[str, ...] = ()
    """Options of the network, as in: depth=10 width=128 activation=sigmoid."""
    target: float | None = None
    """Validation accuracy to reach."""
    batch_size: int | None = None
    """Samples per step."""
    eval_every: int | None = None
    """Steps between evaluations."""
    lr: float | None = None
    """Learning rate, of all arms."""
    optimizer: str | None = None
    """adam or sgd."""
    weight: float | None = None
    """Weight of the MI term at the first step, relative to the task's gradient."""
    decay_steps: int | None = None
    """Steps over which the weight falls to 0."""
    lr_divisor: float | None = None
    """Divide the learning rate by it once more per layer towards the input."""
    diagnostics: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """At each evaluation also measure drift, covariate shift, gradients and ranks."""
    layers: tuple[str, ...] = ()
    """Layers whose outputs are rewarded: names or globs; by default all successive ones."""
    out: Path | None = None
    """Folder for the results; by default out/ and the study's name."""
    data_dir: Path = Path("data")
    """Where data sets are looked for and downloaded to."""
    workers: int | None = None
    """Processes; by default one per core."""
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""


def main() -> int:
    """Run the command line and return the exit status."""
    arguments = tyro.cli(Arguments)
    console = Console()
    if arguments.list:
        print_list(console)
        return 0
    try:
        study = chosen_study(arguments)
        out = arguments.out or Path("out") / study.name
        results = run_study(
            study,
            out,
            build,
            data_dir=arguments.data_dir,
            device=chosen_device(arguments.device),
            workers=chosen_workers(arguments.workers),
            console=console,
        )
    except UserError as error:
        print(f"train.py: {error}", file=sys.stderr)
        return 2
    summary = report.write(out)
    report.print_table(summary, console)
    for result in results:
        if result["failure"]:
            console.print(
                f"failed: {result['cell']}/{result['arm']}/seed-{result['seed']}: {result['failure']}", highlight=False
            )
    console.print(f"report:      {out / 'report.html'}", highlight=False, soft_wrap=True)
    console.print(f"TensorBoard: tensorboard --logdir {out / RUNS}", highlight=False, soft_wrap=True)
    return 1 if any(result["failure"] for result in results) else 0


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    """The network of a cell."""
    return models.build(cell.model, cell.model_options, dataset.input_shape, dataset.classes)


def chosen_study(arguments: Arguments) -> Study:
    """The preset with what the command line changes."""
    if arguments.preset not in PRESETS:
        raise UserError(f"unknown preset {arguments.preset!r}: choose from {', '.join(PRESETS)}")
    study = PRESETS[arguments.preset]
    cell_changes = given(
        arguments, "dataset", "model", "target", "steps", "batch_size", "eval_every", "lr", "optimizer", "lr_divisor"
    )
    options = read_options(arguments.model_options)
    cells = study.cells
    if "dataset" in cell_changes or "model" in cell_changes:
        own = replace(cells[0], **given(arguments, "dataset", "model"))
        kept = cells[0].model_options if own.model == cells[0].model else {}
        cells = (replace(own, name=f"{own.dataset}-{own.model}", model_options=kept, arm_lr={}),)
    if arguments.diagnostics:
        cell_changes["diagnostics"] = True
    if "lr" in cell_changes:
        cell_changes["arm_lr"] = {}
    cells = tuple(replace(c, **cell_changes, model_options={**c.model_options, **options}) for c in cells)
    for cell in cells:
        try:
            models.build(cell.model, cell.model_options, (1, 8, 8), 2)
        except ValueError as error:
            raise UserError(str(error)) from error
    term = replace(study.term, **given(arguments, "weight", "decay_steps", "layers"))
    return replace(study, cells=cells, term=term, **given(arguments, "arms", "seeds"))


def given(arguments: Arguments, *names: str) -> dict[str, Any]:
    """Those of the arguments that were given."""
    return {name: value for name in names if (value := getattr(arguments, name)) not in (None, ())}


def read_options(texts: tuple[str, ...]) -> dict[str, str]:
    """Options written as key=value."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, value) in zip(texts, pairs, strict=True):
        if not (key and equals and value):
            raise UserError(f"--model-options {text}: write key=value")
    return {key: value for key, _, value in pairs}


def chosen_device(name: str) -> torch.device:
    """The device of that name, if this machine has it."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        have = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} is not on this machine: choose from auto, {have}")
    return torch.device(name)


def chosen_workers(count: int | None) -> int:
    """Worker processes to use."""
    if count is not None and count < 1:
        raise UserError(f"workers={count}: give at least 1")
    return count or os.cpu_count() or 1


def print_list(console: Console) -> None:
    """Print what can be named on the command line."""
    for title, names in {
        "presets": {
            name: f"{', '.join(c.name for c in s.cells)}; arms {', '.join(s.arms)}" for name, s in PRESETS.items()
        },
        "datasets": dict.fromkeys(DATASETS, ""),
        "models": {name: " ".join(f"{k}={v}" for k, v in models.options(name).items()) for name in models.REGISTRY},
        "arms": ARMS,
        "estimators": {name: estimators.REGISTRY[name].measures for name in estimators.names()},
    }.items():
        console.print(f"[bold]{title}[/bold]")
        for name, text in names.items():
            console.print(f"  {name:<18} {text}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
