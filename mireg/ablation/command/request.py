"""The study that a command line asks for."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from mireg.ablation.arms import BASELINE, Term
from mireg.ablation.arms import arm as named_arm
from mireg.ablation.command.arguments import Arguments
from mireg.ablation.data import load
from mireg.ablation.errors import UserError, nearest
from mireg.ablation.setting import changes_of
from mireg.ablation.study.config import Cell, Study
from mireg.ablation.study.metric import MODES
from mireg.ablation.study.presets import PRESETS
from mireg.ablation.training import networks
from mireg.ablation.training.loop import Build

DEMO = "demo"
"""The study without any request."""

OWN = Cell(name="own", dataset="digits", model="mlp", target=None, steps=1000)
"""What a cell that --dataset or --model asks for has where nothing else is said, whatever the presets have."""

OWN_ARMS = ("none", "mi")
OWN_SEEDS = 6
"""The fewest with which the exact paired test can fall below 0.05."""


@dataclass(frozen=True)
class Catalogue:
    """The networks and studies that a front end knows by name.

    Attributes:
        names: of the networks.
        options: gives those of a network, with their defaults.
        build: makes the network of a cell, known by name or not; importable by name, since workers import it.
        presets: the studies; by default those of the package.
    """

    names: tuple[str, ...]
    options: Callable[[str], Mapping[str, Any]]
    build: Build
    presets: Mapping[str, Study] = field(default_factory=lambda: PRESETS)


def chosen_study(arguments: Arguments, catalogue: Catalogue) -> Study:
    """The preset with what the arguments change, or a study of one cell of the user's own."""
    own = is_own(arguments)
    if own and arguments.preset is not None:
        raise UserError(
            f"--preset {arguments.preset} does not go with --dataset, --model or --task: these make their own study"
        )
    if arguments.fresh and arguments.keep:
        raise UserError("give --fresh or --keep, not both")
    study = _own(arguments, catalogue) if own else _preset(arguments, catalogue)
    term = replace(study.term, **changes_of(Term, arguments.study))
    study = replace(study, term=term, **changes_of(Study, arguments.study))
    for cell in study.cells:
        _check_network(study, cell, catalogue)
    return study


def is_own(arguments: Arguments) -> bool:
    """Whether the request is for a study of the user's own, not for a preset."""
    return not {"dataset", "model", "task"}.isdisjoint(arguments.study)


def _own(arguments: Arguments, catalogue: Catalogue) -> Study:
    if arguments.cells:
        raise UserError("--cells does not go with --dataset or --model: these make a study of one cell")
    given = arguments.study
    dataset, options = given.get("dataset") or OWN.dataset, read_options(arguments.model_options)
    context = replace(OWN, dataset=dataset, model_options=options).context  # unknown data are refused here
    for name in given.get("arms", ()):
        named_arm(name)
    data = load(dataset, arguments.data_dir, context, given.get("task"))
    modes = data.task.modes
    metric = given.get("metric") or next(iter(data.task.metrics))
    if metric not in modes:
        raise UserError(f"metric={metric!r}: choose from {', '.join(modes)}{nearest(metric, modes)}")
    mode = None if MODES.get(metric) == modes[metric] else modes[metric]
    model = given.get("model") or ("gpt" if data.task.name == "next-token" else OWN.model)
    name = f"{slug(dataset)}-{slug(model)}"
    own = {"name": name, "dataset": dataset, "model": model, "model_options": options, "metric": metric, "mode": mode}
    return Study(name, (replace(OWN, **{**changes_of(Cell, given), **own}),), OWN_ARMS, OWN_SEEDS)


def _preset(arguments: Arguments, catalogue: Catalogue) -> Study:
    name = arguments.preset or DEMO
    presets = catalogue.presets
    if name not in presets:
        raise UserError(f"unknown preset {name!r}{nearest(name, presets)}: choose from {', '.join(presets)}")
    study = presets[name]
    given = arguments.study
    cells = _chosen_cells(study, arguments.cells, given.get("arms", ()))
    changes = changes_of(Cell, given)
    if "lr" in changes:
        changes["arm_lr"] = {}
        study = replace(study, tuning=None)
    if "arms" in given:
        changes["arms"] = ()
    if "seeds" in given:
        changes["seeds"] = None
    options = read_options(arguments.model_options)
    return replace(study, cells=tuple(_changed(cell, cells, changes, options) for cell in cells))


def _changed(cell: Cell, cells: Sequence[Cell], changes: Mapping[str, Any], options: Mapping[str, str]) -> Cell:
    """A cell of a preset with what the arguments change: on another budget it keeps its arms and its share of it."""
    parent = next((other for other in cells if other.name == cell.budget_of), None)
    if parent is not None:
        changes = {key: value for key, value in changes.items() if key != "arms"}
        for key in ("steps", "warmup_steps"):
            if key in changes:
                changes[key] = max(1, round(changes[key] * cell.steps / parent.steps))
    return replace(cell, **changes, model_options={**cell.model_options, **options})


def _check_network(study: Study, cell: Cell, catalogue: Catalogue) -> None:
    """Check that a network is known, unless it is foreign, and has the options given, and those that the arms need."""
    if networks.is_foreign(cell.model):
        return
    if cell.model not in catalogue.names:
        choices = ", ".join([*catalogue.names, *networks.FORMS])
        raise UserError(f"unknown model {cell.model!r}{nearest(cell.model, catalogue.names)}: choose from {choices}")
    known = catalogue.options(cell.model)
    for key in cell.model_options:
        if key not in known:
            raise UserError(
                f"model {cell.model!r} has no option {key!r}{nearest(key, known)}: it has {', '.join(known)}"
            )
    for arm in study.arms_of(cell):
        missing = [option for option in named_arm(arm).model_options if option not in known]
        if missing:
            raise UserError(f"{cell.name}: arm {arm!r} does not apply, model {cell.model!r} has no {missing[0]!r}")


def _chosen_cells(study: Study, names: tuple[str, ...], arms: tuple[str, ...]) -> tuple[Cell, ...]:
    """The cells of these names in this order; all where none is given.

    Each comes with the baseline's other budgets, unless arms without the baseline were asked for.
    """
    known = {cell.name: cell for cell in study.cells}
    for name in names:
        if name not in known:
            raise UserError(f"unknown cell {name!r}{nearest(name, known)}: choose from {', '.join(known)}")
    chosen = {
        cell.name: cell
        for name in names or known
        for cell in study.cells
        if name in (cell.name, cell.budget_of or cell.name)
    }
    if arms and BASELINE not in arms:
        return tuple(cell for cell in chosen.values() if cell.budget_of not in chosen)
    return tuple(chosen.values())


def read_options(texts: tuple[str, ...]) -> dict[str, str]:
    """Options written as key=value."""
    pairs = [text.partition("=") for text in texts]
    for text, (key, equals, value) in zip(texts, pairs, strict=True):
        if not (key and equals and value):
            raise UserError(f"--model-options {text}: write key=value")
    return {key: value for key, _, value in pairs}


def slug(name: str) -> str:
    """A data set or network as part of a path.

    >>> [slug(name) for name in ("cnn", "folder:/data/pets/", "text:books/emma.txt", "lab.nets:Deep", "timm:vit_tiny")]
    ['cnn', 'pets', 'emma', 'lab.nets-Deep', 'timm-vit_tiny']
    """
    kind, _, rest = name.partition(":")
    if kind in ("folder", "text"):
        path = Path(rest).expanduser().resolve()
        name = path.name if kind == "folder" else path.stem
    return re.sub(r"[^A-Za-z0-9_.-]+", "-", name).strip(".-_") or "own"
