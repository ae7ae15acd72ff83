"""Ablation of the MI term: every arm from the same weights, on the same batches, over several seeds."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro
from rich.console import Console
from torch import nn

import models
from mireg import estimators
from mireg.ablation import report
from mireg.ablation.arms import ARMS
from mireg.ablation.cluster import run_on_ray
from mireg.ablation.config import Cell, Study
from mireg.ablation.data import DATASETS, Dataset
from mireg.ablation.errors import Stopped, UserError, cannot_write, nearest
from mireg.ablation.grid import Execute, run_study
from mireg.ablation.group import Group, launched
from mireg.ablation.local import run_here, run_in_workers
from mireg.ablation.presets import PRESETS
from mireg.ablation.progress import Tell, display
from mireg.ablation.settings import as_toml, read_toml
from mireg.ablation.signals import Stop, graceful
from mireg.ablation.work import RUNS, Setup


@dataclass(frozen=True)
class Arguments:
    """Train a network with and without the MI term, over paired seeds, and compare.

    What is not given is taken from the preset. The same command again continues where it stopped.
    Under torchrun, the processes train each run together and share its batches.

    Exit status: 0, 1 if a run failed, 2 for a request that cannot be met (one line on standard error says
    why), 130 or 143 after SIGINT or SIGTERM, once the state of every run is saved.
    """

    config: Path | None = None
    """TOML file with settings under the names that they have here; the command line wins."""
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the settings as such a file, and stop."""

    preset: str = "demo"
    """Named study; --list prints them."""
    list: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print presets, datasets, models, arms and estimators, and stop."""
    cells: tuple[str, ...] = ()
    """Those of the preset's cells to run; by default all."""
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
    """Learning rate, of all arms; a preset that tunes it then does not."""
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
    device: str = "auto"
    """cpu, cuda, or auto: cuda where there is one."""
    executor: Literal["local", "ray"] = "local"
    """Where runs go: processes on this machine, or tasks on a Ray cluster whose machines share --out and --data-dir."""
    ray_address: str | None = None
    """Ray cluster; by default the one in RAY_ADDRESS, or else this machine alone."""
    workers: int | None = None
    """Processes on this machine; by default the cores divided by the threads."""
    threads: int = 1
    """CPU threads of each run; results are the same to the bit only at the same number."""
    checkpoint_seconds: float = 20.0
    """Least time between checkpoints of a run; 0 writes one at every step."""
    progress: Literal["auto", "bars", "lines", "json"] = "auto"
    """Bars or lines on standard error (auto: bars on a terminal), or a JSON object a line on standard output."""
    quiet: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print nothing but warnings and errors."""


NOT_IN_FILES = frozenset({"config", "print_config", "list"})


def main(words: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    try:
        return run(parse(words))
    except UserError as error:
        say(str(error))
    except OSError as error:
        say(cannot_write(error))
    except KeyboardInterrupt:  # before there was anything to save
        return 128 + signal.SIGINT
    return 2


def say(text: str) -> None:
    """Print a line for the user, once where several processes work together."""
    if os.environ.get("RANK", "0") == "0":
        print(f"train.py: {text}", file=sys.stderr)


def run(arguments: Arguments) -> int:
    """Do what the arguments ask, and return the exit status."""
    console = Console(quiet=arguments.quiet or arguments.progress == "json")
    if arguments.list:
        print_list(Console())
        return 0
    study = chosen_study(arguments)
    out = arguments.out or Path("out") / study.name
    device = chosen_device(arguments.device, arguments.executor)
    if arguments.threads < 1:
        raise UserError(f"threads={arguments.threads}: give at least 1")
    if not arguments.checkpoint_seconds >= 0:
        raise UserError(f"checkpoint_seconds={arguments.checkpoint_seconds}: give at least 0")
    workers = chosen_workers(arguments)
    if arguments.print_config:
        print(as_toml(arguments, NOT_IN_FILES), end="")
        return 0
    with (
        launched(device) as group,
        display(chosen_display(arguments, group)) as tell,
        graceful(signal.SIGINT, signal.SIGTERM) as stop,
    ):
        setup = Setup(out, build, arguments.data_dir, group.device, arguments.threads, arguments.checkpoint_seconds)
        execute = chosen_executor(arguments, setup, workers, group, tell, stop)
        try:
            results = run_study(study, setup, execute, group=group, tell=tell)
        except Stopped:
            number = stop.signal or signal.SIGTERM  # None where another process of the group was asked
            say(f"stopped by {signal.Signals(number).name}, its state saved: the same command continues")
            return 128 + number
    failed = [result for result in results if result["failure"]]
    if group.writes and len(failed) < len(results):
        report.print_table(report.write(out), console)
        console.print(f"report:      {out / 'report.html'}", highlight=False, soft_wrap=True)
        console.print(f"TensorBoard: tensorboard --logdir {out / RUNS}", highlight=False, soft_wrap=True)
    for result in failed:
        say(f"failed: {result['cell']}/{result['arm']}/seed-{result['seed']}: {result['failure']}")
    return 1 if failed else 0


def parse(words: Sequence[str] | None) -> Arguments:
    """Read the command line, over the file that it names, if any."""
    arguments = read_command_line(words, Arguments())
    if arguments.config is None:
        return arguments
    return read_command_line(words, read_toml(arguments.config, Arguments, NOT_IN_FILES))


def read_command_line(words: Sequence[str] | None, default: Arguments) -> Arguments:
    """Read the command line; what it leaves out is taken from the default."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            arguments, unknown = tyro.cli(Arguments, args=words, default=default, return_unknown_args=True)
    except SystemExit as end:
        if not end.code:
            raise
        # tyro explains at length in a box; its first paragraph is what is wrong.
        text = re.sub("[╭╮╰╯│]|──+", "", box.getvalue().partition("\n")[2]).strip()
        raise UserError(" ".join(re.split(r"\n\s*\n", text)[0].split())) from None
    if unknown:
        known = [f"--{name.replace('_', '-')}" for name in Arguments.__dataclass_fields__]
        raise UserError(f"unknown option {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}")
    return arguments


def build(cell: Cell, dataset: Dataset) -> nn.Module:
    """The network of a cell."""
    return models.build(cell.model, cell.model_options, dataset.input_shape, dataset.outputs)


def chosen_study(arguments: Arguments) -> Study:
    """The preset with what the command line changes."""
    if arguments.preset not in PRESETS:
        hint = nearest(arguments.preset, PRESETS)
        raise UserError(f"unknown preset {arguments.preset!r}{hint}: choose from {', '.join(PRESETS)}")
    if arguments.model is not None and arguments.model not in models.REGISTRY:
        hint = nearest(arguments.model, models.REGISTRY)
        raise UserError(f"unknown model {arguments.model!r}{hint}: choose from {', '.join(models.REGISTRY)}")
    study = PRESETS[arguments.preset]
    cell_changes = given(
        arguments, "dataset", "model", "target", "steps", "batch_size", "eval_every", "lr", "optimizer", "lr_divisor"
    )
    options = read_options(arguments.model_options)
    cells = chosen_cells(study, arguments.cells)
    if "dataset" in cell_changes or "model" in cell_changes:
        own = replace(cells[0], **given(arguments, "dataset", "model"))
        kept = cells[0].model_options if own.model == cells[0].model else {}
        name, unset = f"{own.dataset}-{own.model}", {"arms": (), "seeds": None, "tuning_steps": None}
        cells = (replace(own, name=name, model_options=kept, arm_lr={}, **unset),)
    if arguments.diagnostics:
        cell_changes["diagnostics"] = True
    if "lr" in cell_changes:
        cell_changes["arm_lr"] = {}
        study = replace(study, tuning=None)
    if arguments.arms:
        cell_changes["arms"] = ()
    if arguments.seeds is not None:
        cell_changes["seeds"] = None
    cells = tuple(replace(c, **cell_changes, model_options={**c.model_options, **options}) for c in cells)
    for cell in cells:
        try:
            models.build(cell.model, cell.model_options, (1, 8, 8), 2)
        except (ValueError, TypeError, RuntimeError, MemoryError, OverflowError) as error:
            raise UserError(" ".join(str(error).split())) from error
    term = replace(study.term, **given(arguments, "weight", "decay_steps", "layers"))
    study = replace(study, cells=cells, term=term, **given(arguments, "arms", "seeds"))
    for cell in cells:
        for arm in study.arms_of(cell):
            missing = [option for option in ARMS[arm].model_options if option not in models.options(cell.model)]
            if missing:
                raise UserError(f"{cell.name}: arm {arm!r} does not apply, model {cell.model!r} has no {missing[0]!r}")
    return study


def chosen_cells(study: Study, names: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells of these names in this order, all where none is given."""
    known = {cell.name: cell for cell in study.cells}
    for name in names:
        if name not in known:
            raise UserError(f"unknown cell {name!r}{nearest(name, known)}: choose from {', '.join(known)}")
    return tuple(known[name] for name in dict.fromkeys(names or known))


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


def chosen_device(name: str, executor: str) -> torch.device:
    """The device of that name, if this machine has it; a cluster's machines may have what this one has not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and executor == "local" and not torch.cuda.is_available()):
        have = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} is not on this machine: choose from auto, {have}")
    return torch.device(name)


def chosen_workers(arguments: Arguments) -> int:
    """Worker processes to use."""
    if arguments.workers is not None and arguments.workers < 1:
        raise UserError(f"workers={arguments.workers}: give at least 1")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return arguments.workers or max(1, cores // arguments.threads)


def chosen_display(arguments: Arguments, group: Group) -> str:
    """Style of the progress display."""
    return "none" if arguments.quiet or not group.writes else arguments.progress


def chosen_executor(arguments: Arguments, setup: Setup, workers: int, group: Group, tell: Tell, stop: Stop) -> Execute:
    """What trains the runs."""
    if arguments.executor == "ray":
        if group.size > 1:
            raise UserError("--executor ray does not go with torchrun: start train.py by itself")
        return partial(run_on_ray, setup=setup, address=arguments.ray_address, tell=tell, stop=stop)
    if workers == 1 or group.size > 1:
        return partial(run_here, setup=setup, group=group, tell=tell, stop=stop)
    return partial(run_in_workers, setup=setup, workers=workers, tell=tell, stop=stop)


def print_list(console: Console) -> None:
    """Print what can be named on the command line."""
    for title, names in {
        "presets": {
            name: f"{', '.join(c.name for c in s.cells)}; arms {', '.join(s.all_arms)}" for name, s in PRESETS.items()
        },
        "datasets": dict.fromkeys(DATASETS, ""),
        "models": {name: " ".join(f"{k}={v}" for k, v in models.options(name).items()) for name in models.REGISTRY},
        "arms": {name: arm.about for name, arm in ARMS.items()},
        "estimators": {name: estimators.REGISTRY[name].measures for name in estimators.names()},
    }.items():
        console.print(f"[bold]{title}[/bold]")
        for name, text in names.items():
            console.print(f"  {name:<18} {text}", highlight=False, markup=False, soft_wrap=True)


if __name__ == "__main__":
    sys.exit(main())
