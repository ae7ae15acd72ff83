"""The options of the command line, and of a file with settings."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from mireg.ablation.command.toml import read_toml
from mireg.ablation.errors import UserError, nearest


@dataclass(frozen=True)
class Arguments:
    """Train a network with and without the MI term, over paired seeds, and compare.

    With --dataset or --model, what is not given has the default that --print-config shows; else it is taken from
    the preset. The same command again continues where it stopped.
    Under torchrun, the processes train each run together and share its batches.

    Exit status: 0, 1 if a run failed, 2 for a request that cannot be met (one line on standard error says
    why), 130 or 143 after SIGINT or SIGTERM, once the state of every run is saved.
    """

    config: Path | None = None
    """TOML file with settings under the names that they have here; the command line wins."""
    print_config: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Print the settings as such a file, and stop."""

    preset: str | None = None
    """Named study, by default demo; --list prints them. It does not go with --dataset or --model."""
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
    """Data set: a name, package.module:loader, folder:PATH or text:FILE; see docs/own_network.md."""
    model: str | None = None
    """Network: a name, package.module:factory, timm:NAME or torchvision:NAME."""
    model_options: tuple[str, ...] = ()
    """Options of the network, as in: depth=10 width=128 activation=sigmoid."""
    target: float | None = None
    """Value of the metric on validation data that is to be reached, in the metric's own unit."""
    metric: str | None = None
    """accuracy or loss."""
    batch_size: int | None = None
    """Samples per step."""
    eval_every: int | None = None
    """Steps between evaluations."""
    lr: float | None = None
    """Learning rate, of all arms; a preset that tunes it then does not."""
    optimizer: str | None = None
    """adam, adamw, sgd (Nesterov), or muon for the matrices of hidden layers with AdamW for the rest."""
    schedule: str | None = None
    """Of the learning rate: constant, or cosine or linear down to 0 at the last step."""
    warmup_steps: int | None = None
    """Steps in which the learning rate rises from 0."""
    weight_decay: float | None = None
    """Of parameters of at least two dimensions."""
    momentum: float | None = None
    """Of sgd."""
    augment: str | None = None
    """none, or flip-crop for images."""
    precision: str | None = None
    """Of the forward pass: float32, bfloat16 or float16."""
    compile: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Train with torch.compile."""
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


def parse(argv: Sequence[str] | None, program: str) -> Arguments:
    """Read the command line, over the file that it names, if any."""
    arguments = read_command_line(argv, Arguments(), program)
    if arguments.config is None:
        return arguments
    return read_command_line(argv, read_toml(arguments.config, Arguments, NOT_IN_FILES), program)


def read_command_line(argv: Sequence[str] | None, default: Arguments, program: str) -> Arguments:
    """Read the command line; what it leaves out is taken from the default."""
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            arguments, unknown = tyro.cli(Arguments, args=argv, default=default, return_unknown_args=True, prog=program)
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


def given(arguments: Arguments, *names: str) -> dict[str, Any]:
    """Those of the arguments that were given."""
    return {name: value for name in names if (value := getattr(arguments, name)) not in (None, ())}
