"""The options of the command line, and of a file with settings."""

# ruff: noqa: RUF009  # setting() is field()

from __future__ import annotations

import argparse
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from mireg.ablation.arms import Term
from mireg.ablation.command.toml import read_toml
from mireg.ablation.errors import UserError, nearest, one_line
from mireg.ablation.setting import changes_of, check_settings, flag, setting, settings_of
from mireg.ablation.study.config import Cell, Study


@dataclass(frozen=True)
class Arguments:
    """Train a network with and without the MI term, over paired seeds, and compare.

    With --dataset or --model, what is not given has the default that --print-config shows; else it is taken from
    the preset. The same command again continues where it stopped.
    Under torchrun, the processes train each run together and share its batches.

    Exit status: 0, 1 if a run failed, 2 for a request that cannot be met (one line on standard error says
    why), 130 or 143 after SIGINT or SIGTERM, once the state of every run is saved.
    """

    config: Path | None = setting(
        "TOML file with settings under the names that they have here; the command line wins.", None
    )
    print_config: bool = setting("Print the settings as such a file, and stop.", False)
    preset: str | None = setting(
        "Named study, by default demo; --list prints them. It does not go with --dataset, --model, --task.", None
    )
    list: bool = setting("Print presets, datasets, models, arms and estimators, and stop.", False)
    cells: tuple[str, ...] = setting("Those of the preset's cells to run; by default all.", ())
    model_options: tuple[str, ...] = setting(
        "Options of the network, as in: depth=10 width=128 activation=sigmoid.", ()
    )
    out: Path | None = setting("Folder for the results; by default out/ and the study's name.", None)
    fresh: bool = setting("Remove the results in --out first.", False)
    keep: bool = setting("Keep the results in --out although your code has changed since.", False)
    data_dir: Path = setting("Where data sets are looked for and downloaded to.", Path("data"))
    device: str = setting("cpu, cuda, or auto: cuda where there is one.", "auto")
    executor: Literal["local", "ray"] = setting(
        "Where runs go: processes on this machine, or tasks on a Ray cluster that shares --out and --data-dir.", "local"
    )
    ray_address: str | None = setting(
        "Ray cluster; by default the one in RAY_ADDRESS, or else this machine alone.", None
    )
    workers: int | None = setting(
        "Processes on this machine; by default the cores divided by the threads.", None, least=1
    )
    threads: int = setting("CPU threads of each run; results are bit-identical only at the same number.", 1, least=1)
    checkpoint_seconds: float = setting(
        "Least time between checkpoints of a run; 0 writes one at every step.", 20.0, least=0
    )
    progress: Literal["auto", "bars", "lines", "json"] = setting(
        "Bars or lines on standard error (auto: bars on a terminal), or a JSON object a line on standard output.",
        "auto",
    )
    quiet: bool = setting("Print nothing but warnings and errors.", False)
    study: Mapping[str, Any] = field(default_factory=dict)
    """What is given of the settings of a study, its cells and the term, by name of the option."""

    def __post_init__(self) -> None:
        check_settings(self)


KINDS = (Arguments, Study, Cell, Term)
"""Whose settings are options."""

NOT_IN_FILES = frozenset({"config", "print_config", "list", "fresh", "keep"})

MUST_BE = {int: "a whole number", float: "a number", str: "text", Path: "a path"}


def parse(argv: Sequence[str] | None, program: str) -> Arguments:
    """Read the command line, over the file that it names, if any; a UserError says what cannot be read."""
    given = _Parser(program).read(argv)
    path = given.get("config")
    values = {**(_Parser(program, lists="extend").read_file(path) if path else {}), **given}
    own = changes_of(Arguments, values)
    return Arguments(**own, study={name: value for name, value in values.items() if name not in own})


class _Parser(argparse.ArgumentParser):
    """A parser of the settings of :data:`KINDS`, which leaves out what is not given and refuses in one line.

    Args:
        program: at the head of messages.
        lists: what an option with any number of values does when it is given again: ``"store"`` takes the last,
            ``"extend"`` adds to the values, since the words of a file name them one at a time.
    """

    def __init__(self, program: str, lists: str = "store") -> None:
        super().__init__(
            description=inspect.getdoc(Arguments),
            formatter_class=argparse.RawDescriptionHelpFormatter,
            argument_default=argparse.SUPPRESS,
            allow_abbrev=False,
        )
        self.prog = program
        self.how: dict[str, dict[str, Any]] = {}
        for kind in KINDS:
            hints = typing.get_type_hints(kind)
            for name, of in settings_of(kind).items():
                shown = kind is Arguments and of.default not in (None, (), False)
                about = of.metadata["help"] + (f" (default: {of.default})" if shown else "")
                flags = [flag(other) for other in (name, of.metadata["other"]) if other]
                self.how[name] = _how(hints[of.name], lists)
                self.add_argument(*flags, dest=name, help=about, **self.how[name])

    def read(self, words: Sequence[str] | None) -> dict[str, Any]:
        """What the words set."""
        values, unknown = self.parse_known_args(words)
        if unknown:
            known = [flag(name) for name in self.how]
            raise UserError(f"unknown option {unknown[0]}{nearest(unknown[0].partition('=')[0], known)}")
        return {name: self._value(name, value) for name, value in vars(values).items()}

    def _value(self, name: str, value: Any) -> Any:
        """Several values as a tuple. Of an only value ``--``, which argparse takes for a separator, it leaves none."""
        if not isinstance(value, list):
            return value
        if "nargs" not in self.how[name]:
            self.error(f"{flag(name)}: '--' is no value")
        return tuple(value)

    def read_file(self, path: Path) -> dict[str, Any]:
        """What a file with settings sets; its meaning and its errors are those of the same words of a command line."""
        words = []
        for name, value in read_toml(path).items():
            how = self.how.get(name, {})
            if how.get("action") == "store_true" and isinstance(value, bool):
                words += [flag(name)] if value else []
            else:
                items = value if "nargs" in how and isinstance(value, list) else [value]
                if "--" in items:
                    raise UserError(f"{path}: {flag(name)}: '--' is no value")
                words += [f"{flag(name)}={str(x).lower() if isinstance(x, bool) else x}" for x in items]
        try:
            values = self.read(words)
        except UserError as error:
            raise UserError(f"{path}: {one_line(error)}") from None
        for name in NOT_IN_FILES.intersection(values):
            raise UserError(f"{path}: {flag(name)} cannot be set in a file")
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
