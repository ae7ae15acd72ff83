"""Lists what there is, and prints the settings of a request."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console

from mireg import estimators
from mireg.ablation import data
from mireg.ablation.arms import ARMS, Term
from mireg.ablation.command.arguments import NOT_IN_FILES, Arguments
from mireg.ablation.command.request import Catalogue, is_own
from mireg.ablation.command.toml import as_toml
from mireg.ablation.setting import settings_of
from mireg.ablation.study.config import Cell, Study
from mireg.ablation.tasks import TASKS
from mireg.ablation.training import networks


def print_list(console: Console, catalogue: Catalogue) -> None:
    """Print what can be named on the command line."""
    presets = {
        name: f"{', '.join(cell.name for cell in study.cells)}; arms {', '.join(study.all_arms)}"
        for name, study in catalogue.presets.items()
        if all(cell.model in catalogue.names for cell in study.cells)
    }
    arms = {name: arm.about for name, arm in ARMS.items()}
    for title, names in {
        "presets": presets,
        "datasets": {**_first_lines(data.DATASETS), **data.FORMS},
        "models": {**{name: _written(catalogue.options(name)) for name in catalogue.names}, **networks.FORMS},
        "tasks": {**_first_lines(TASKS), "package.module:TASK": "your own"},
        "arms": {**arms, "package.module:Arm": "your own, see docs/tasks.md"},
        "estimators": {name: estimators.REGISTRY[name].measures for name in estimators.names()},
    }.items():
        if names:
            console.print(f"[bold]{title}[/bold]")
        for name, text in names.items():
            console.print(f"  {name:<24} {text}", highlight=False, markup=False, soft_wrap=True)


def _first_lines(makers: Mapping[str, Callable[..., Any]]) -> dict[str, str]:
    """The first line of the docstring of each function."""
    return {name: (inspect.getdoc(make) or "").partition("\n")[0] for name, make in makers.items()}


def config_text(arguments: Arguments, study: Study, out: Path, catalogue: Catalogue) -> str:
    """The settings as a file that --config reads.

    Of a user's own cell every setting is there; of a preset those that were given, and the others as comments, cell
    by cell.
    """
    values = {name: value for name, value in _given(arguments).items() if name not in NOT_IN_FILES}
    values |= {**arguments.study, "out": out}
    comments = []
    if is_own(arguments):
        (cell,) = study.cells
        known = catalogue.options(cell.model) if cell.model in catalogue.names else {}
        options = {**known, **cell.model_options}
        values["model_options"] = tuple(f"{key}={value}" for key, value in options.items())
        values |= _given(study) | _given(cell) | _given(study.term)
    else:
        values["preset"] = study.name
        comments = [f"# {cell.name}: {_settings(study, cell)}\n" for cell in study.cells]
    return as_toml(values) + "".join(comments)


def _given(part: Arguments | Study | Cell | Term) -> dict[str, Any]:
    """The settings of a part of a request, by name of the option."""
    return {name: getattr(part, of.name) for name, of in settings_of(part).items()}


def _settings(study: Study, cell: Cell) -> str:
    values = _given(cell) | {"betas": cell.betas}
    if study.tuning and study.is_tuned(cell):
        grids = {"lr": cell.tuning_lrs or study.tuning.lrs}
        grids |= {f"lr of {arm}": lrs for arm, lrs in cell.arm_tuning_lrs.items()}
        values |= {name: f"best of {', '.join(map(str, lrs))}" for name, lrs in grids.items()}
    values |= {f"lr of {arm}": lr for arm, lr in cell.arm_lr.items()}
    options = _written(cell.model_options)
    return (
        f"{_written(values)}; {options or 'the defaults of the model'}; seeds={study.seeds_of(cell)}; "
        f"arms {', '.join(study.arms_of(cell))}"
    )


def _written(values: Any) -> str:
    return " ".join(f"{key}={value}" for key, value in values.items())
