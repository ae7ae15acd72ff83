"""The command line: reads a request, runs the study, and prints what came out."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import torch
from rich.console import Console
from torch import nn

from mireg.ablation.command import report
from mireg.ablation.command.arguments import Arguments, parse
from mireg.ablation.command.printing import config_text, print_list
from mireg.ablation.command.request import Catalogue, chosen_study
from mireg.ablation.data import Dataset
from mireg.ablation.errors import Stopped, UserError, cannot_write
from mireg.ablation.execution.job import Setup
from mireg.ablation.execution.local import locally
from mireg.ablation.execution.progress import display
from mireg.ablation.execution.ray import on_ray
from mireg.ablation.execution.scheduler import run_study
from mireg.ablation.execution.signals import graceful
from mireg.ablation.study.config import Cell
from mireg.ablation.training import networks
from mireg.ablation.training.group import launched
from mireg.ablation.training.loop import Trainer

SHIPPED = "mireg.models"
"""The folder ``models`` of the checkout in an installed package; a checkout has none of that name."""


def shipped() -> Catalogue:
    """The networks in an installed package."""
    if importlib.util.find_spec(SHIPPED) is None:
        return Catalogue((), lambda name: {}, build_shipped)
    models = importlib.import_module(SHIPPED)
    return Catalogue(tuple(models.REGISTRY), models.options, build_shipped)


def build_shipped(cell: Cell, dataset: Dataset) -> nn.Module:
    """The network of a cell, of this package or from outside."""
    return networks.build_cell(cell, dataset, SHIPPED)


def main(argv: Sequence[str] | None = None, catalogue: Catalogue | None = None, program: str = "mireg") -> int:
    """Run the command line and return the exit status.

    Args:
        argv: the arguments; by default those of the process.
        catalogue: the networks that can be named; by default those that an installed package has.
        program: at the head of messages.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["report"]:
        return report.main(words[1:], f"{program} report")
    try:
        return run(parse(words, program), catalogue or shipped(), program)
    except UserError as error:
        print_error(program, str(error))
    except OSError as error:
        print_error(program, cannot_write(error))
    except KeyboardInterrupt:  # before there was anything to save
        return 128 + signal.SIGINT
    return 2


def print_error(program: str, text: str) -> None:
    """Print a line for the user, once where several processes work together."""
    if os.environ.get("RANK", "0") == "0":
        print(f"{program}: {text}", file=sys.stderr)


def run(arguments: Arguments, catalogue: Catalogue, program: str) -> int:
    """Do what the arguments ask, and return the exit status."""
    console = Console(quiet=arguments.quiet or arguments.progress == "json")
    if arguments.list:
        print_list(Console(), catalogue)
        return 0
    device = resolve_device(arguments.device, arguments.executor)
    study = chosen_study(arguments, catalogue)
    out = arguments.out or Path("out") / study.name
    if arguments.print_config:
        print(config_text(arguments, study, out, catalogue), end="")
        return 0
    with (
        launched(device) as group,
        display("none" if arguments.quiet or not group.writes else arguments.progress) as tell,
        graceful(signal.SIGINT, signal.SIGTERM) as stop,
    ):
        trainer = Trainer(catalogue.build, arguments.data_dir)
        setup = Setup(out, trainer, group.device, arguments.threads, arguments.checkpoint_seconds)
        if arguments.executor == "ray":
            execute = on_ray(setup, arguments.ray_address, group, tell, stop)
        else:
            execute = locally(setup, arguments.workers, group, tell, stop)
        try:
            results = run_study(
                study, setup, execute, group=group, tell=tell, fresh=arguments.fresh, keep=arguments.keep
            )
        except Stopped:
            number = stop.signal or signal.SIGTERM  # None where another process of the group was asked
            print_error(
                program, f"stopped by {signal.Signals(number).name}, its state saved: the same command continues"
            )
            return 128 + number
    failed = [result for result in results if result["failure"]]
    if group.writes and len(failed) < len(results):
        from mireg.ablation.report import show  # not for --help, nor for workers: SciPy

        show(out, console)
    for result in failed:
        print_error(program, f"failed: {result['cell']}/{result['arm']}/seed-{result['seed']}: {result['failure']}")
    return 1 if failed else 0


def resolve_device(name: str, executor: str) -> torch.device:
    """The device of that name, if this machine has it; a cluster's machines may have what this one has not."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name not in ("cpu", "cuda") or (name == "cuda" and executor == "local" and not torch.cuda.is_available()):
        have = "cpu, cuda" if torch.cuda.is_available() else "cpu"
        raise UserError(f"device {name!r} is not on this machine: choose from auto, {have}")
    return torch.device(name)
