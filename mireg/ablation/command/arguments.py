"""The options of the command line, and of a file with settings: each is defined once, as a field."""

# ruff: noqa: RUF009  # option() is field()

from __future__ import annotations

import argparse
import inspect
import types
import typing
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

from mireg.ablation.command.toml import key_of, read_words
from mireg.ablation.errors import UserError, nearest, one_line
from mireg.ablation.tasks import TASKS


def option(default: Any, about: str, *others: str) -> Any:
    """A setting with its default, a sentence for ``--help`` and other names of the option."""
    return field(default=default, metadata={"help": about, "others": others})


@dataclass(frozen=True)
class Arguments:
    """Train a network with and without the MI term, over paired seeds, and compare.

    With --dataset or --model, what is not given has the default that --print-config shows; else it is taken from
    the preset. The same command again continues where it stopped.
    Under torchrun, the processes train each run together and share its batches.

    Exit status: 0, 1 if a run failed, 2 for a request that cannot be met (one line on standard error says
    why), 130 or 143 after SIGINT or SIGTERM, once the state of every run is saved.
    """

    config: Path | None = option(
        None, "TOML file with settings under the names that they have here; the command line wins."
    )
    print_config: bool = option(False, "Print the settings as such a file, and stop.")

    preset: str | None = option(
        None, "Named study, by default demo; --list prints them. It does not go with --dataset or --model."
    )
    list: bool = option(False, "Print presets, datasets, models, arms and estimators, and stop.")
    cells: tuple[str, ...] = option((), "Those of the preset's cells to run; by default all.")
    arms: tuple[str, ...] = option(
        (), "Arms to compare: names, 'none' being the network as it is, or package.module:Arm; see docs/tasks.md."
    )
    seeds: int | None = option(None, "Number of seeds; each arm runs with every one.")
    steps: int | None = option(None, "Training steps of each run.")
    dataset: str | None = option(
        None, "Data set: a name, package.module:loader, folder:PATH or text:FILE; see docs/own_network.md."
    )
    model: str | None = option(None, "Network: a name, package.module:factory, timm:NAME or torchvision:NAME.")
    model_options: tuple[str, ...] = option((), "Options of the network, as in: depth=10 width=128 activation=sigmoid.")
    task: str | None = option(
        None,
        f"{', '.join(TASKS)} or package.module:TASK; by default the data's own. See docs/tasks.md.",
    )
    goal: float | None = option(
        None, "Value of the metric on validation data that is to be reached, in the metric's own unit.", "--target"
    )
    metric: str | None = option(None, "One of the task's: accuracy, loss, ...")
    batch_size: int | None = option(None, "Samples per step.")
    eval_every: int | None = option(None, "Steps between evaluations.")
    lr: float | None = option(None, "Learning rate, of all arms; a preset that tunes it then does not.")
    optimizer: str | None = option(
        None, "adam, adamw, sgd (Nesterov), or muon for the matrices of hidden layers with AdamW for the rest."
    )
    schedule: str | None = option(
        None, "Of the learning rate: constant, or cosine or linear down to 0 at the last step."
    )
    warmup_steps: int | None = option(None, "Steps in which the learning rate rises from 0.")
    weight_decay: float | None = option(None, "Of parameters of at least two dimensions.")
    momentum: float | None = option(None, "Of sgd.")
    augment: str | None = option(None, "none, or flip-crop for images.")
    precision: str | None = option(None, "Of the forward pass: float32, bfloat16 or float16.")
    compile: bool = option(False, "Train with torch.compile.")
    weight: float | None = option(None, "Weight of the MI term at the first step, relative to the task's gradient.")
    decay_steps: int | None = option(None, "Steps over which the weight falls to 0.")
    lr_divisor: float | None = option(None, "Divide the learning rate by it once more per layer towards the input.")
    diagnostics: bool = option(False, "At each evaluation also measure drift, covariate shift, gradients and ranks.")
    layers: tuple[str, ...] = option(
        (), "Layers whose outputs are rewarded: names or globs; by default all successive ones."
    )
    out: Path | None = option(None, "Folder for the results; by default out/ and the study's name.")
    fresh: bool = option(False, "Remove the results in --out first.")
    keep: bool = option(False, "Keep the results in --out although your code has changed since.")
    data_dir: Path = option(Path("data"), "Where data sets are looked for and downloaded to.")
    device: str = option("auto", "cpu, cuda, or auto: cuda where there is one.")
    executor: Literal["local", "ray"] = option(
        "local",
        "Where runs go: processes on this machine, or tasks on a Ray cluster that shares --out and --data-dir.",
    )
    ray_address: str | None = option(
        None, "Ray cluster; by default the one in RAY_ADDRESS, or else this machine alone."
    )
    workers: int | None = option(None, "Processes on this machine; by default the cores divided by the threads.")
    threads: int = option(1, "CPU threads of each run; results are bit-identical only at the same number.")
    checkpoint_seconds: float = option(20.0, "Least time between checkpoints of a run; 0 writes one at every step.")
    progress: Literal["auto", "bars", "lines", "json"] = option(
        "auto",
        "Bars or lines on standard error (auto: bars on a terminal), or a JSON object a line on standard output.",
    )
    quiet: bool = option(False, "Print nothing but warnings and errors.")


NOT_IN_FILES = frozenset({"config", "print_config", "list", "fresh", "keep"})


MUST_BE = {int: "a whole number", float: "a number", str: "text", Path: "a path"}


def parse(argv: Sequence[str] | None, program: str) -> Arguments:
    """Read the command line, over the file that it names, if any.

    Raises:
        UserError: on an unknown option or a value of another type, in the command line or the file.
    """
    given = _Parser(program).read(argv)
    path = given.get("config")
    in_file = _Parser(program, lists="extend").read_file(path) if path else {}
    return replace(Arguments(), **{**in_file, **given})


class _Parser(argparse.ArgumentParser):
    """A parser of the fields of :class:`Arguments`, which leaves out what is not given and refuses in one line.

    Args:
        program: at the head of messages.
        lists: what an option with any number of values does when it is given again: ``"store"`` takes the last,
            ``"extend"`` adds to the values, since the words of a file name them one at a time.
    """

    def __init__(self, program: str, lists: str = "store") -> None:
        super().__init__(
            prog=program,
            description=inspect.getdoc(Arguments),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        hints = typing.get_type_hints(Arguments)
        for setting in fields(Arguments):
            about = setting.metadata["help"]
            if setting.default not in (None, (), False):
                about += f" (default: {setting.default})"
            flags = (_flag(setting.name), *setting.metadata["others"])
            self.add_argument(*flags, dest=setting.name, help=about, **_how(hints[setting.name], lists))

    def read(self, words: Sequence[str] | None) -> dict[str, Any]:
        """What the words set."""
        values, unknown = self.parse_known_args(words)
        if unknown:
            known = [_flag(field.name) for field in fields(Arguments)]
            raise UserError(f"unknown option {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}")
        return {name: tuple(value) if isinstance(value, list) else value for name, value in vars(values).items()}

    def read_file(self, path: Path) -> dict[str, Any]:
        """What a file with settings sets."""
        defaults = {key_of(field.name): field.default for field in fields(Arguments)}
        switches, lists = ([key for key, default in defaults.items() if default == of] for of in (False, ()))
        words = read_words(path, switches, lists)
        try:
            values = self.read(words)
        except UserError as error:
            raise UserError(f"{path}: {one_line(error)}") from None
        for name in NOT_IN_FILES.intersection(values):
            raise UserError(f"{path}: {_flag(name)} cannot be set in a file")
        return values

    def error(self, message: str) -> typing.NoReturn:
        raise UserError(message.removeprefix("argument "))


def _how(hint: Any, lists: str) -> dict[str, Any]:
    """How argparse reads a value of that type."""
    if isinstance(hint, types.UnionType):
        hint = next(part for part in typing.get_args(hint) if part is not types.NoneType)
    if hint is bool:
        return {"action": "store_true"}
    if typing.get_origin(hint) is Literal:
        return {"choices": typing.get_args(hint)}
    if typing.get_origin(hint) is tuple:
        return {"action": lists, "nargs": "*", "metavar": "WORD"}
    return {"type": _reader(hint), "metavar": {int: "N", float: "X"}.get(hint, hint.__name__.upper())}


def _reader(kind: type) -> Callable[[str], Any]:
    """Reads one word, and says what it must be where it is not."""

    def read(text: str) -> Any:
        if "\0" in text:
            raise argparse.ArgumentTypeError(f"{text!r} must not hold a zero character")
        try:
            return kind(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} must be {MUST_BE[kind]}") from None

    return read


def _flag(name: str) -> str:
    return f"--{key_of(name)}"


def given(arguments: Arguments, *names: str) -> dict[str, Any]:
    """Those of the arguments that were given."""
    return {name: value for name in names if (value := getattr(arguments, name)) not in (None, ())}
