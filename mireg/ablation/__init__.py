"""Train with and without the term, paired by seed.

:func:`compare` takes a custom training loop; :class:`Study` and :func:`run_study` are the base of the command line.
Its parts, each of which imports only those before it:

- ``errors``, ``events``
- ``setting``: what a user can set, as fields; ``user_code``, ``fingerprint``: a user's own code; ``random_state``
- ``tasks``: losses, metrics and the outputs that a network needs
- ``arms``: the compared arms; ``data``: data sets
- ``study``: cells, arms and seeds, the metric, named studies, the choice of learning rates
- ``storage``: files, locks, the record of a study, curves for TensorBoard
- ``training``: a single run, of the built-in loop or a user's own
- ``report``: the results of a study
- ``execution``: many runs, in this process, in workers or on Ray
- ``command``: the command line; ``comparison``: :func:`compare`
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mireg.ablation import report
    from mireg.ablation.arms import ARMS, Arm, LossTerm, Term
    from mireg.ablation.comparison import compare
    from mireg.ablation.data import Dataset, Samples, graph
    from mireg.ablation.errors import UserError
    from mireg.ablation.execution.job import Setup
    from mireg.ablation.execution.scheduler import run_study
    from mireg.ablation.study.config import Cell, Study, Tuning
    from mireg.ablation.study.presets import PRESETS
    from mireg.ablation.tasks import Task
    from mireg.ablation.training.loop import Trainer
    from mireg.ablation.training.run import Run

__all__ = [
    "ARMS",
    "PRESETS",
    "Arm",
    "Cell",
    "Dataset",
    "LossTerm",
    "Run",
    "Samples",
    "Setup",
    "Study",
    "Task",
    "Term",
    "Trainer",
    "Tuning",
    "UserError",
    "compare",
    "graph",
    "report",
    "run_study",
]

_LIGHT = ("errors", "tasks", "data", "arms", "study.config", "study.presets")
_SLOW = ("training.loop", "execution.scheduler", "comparison")  # to import; most of the package needs none of them
"""Where the names are found. Each imports only those before it, so that looking in this order imports little else."""


def __getattr__(name: str) -> Any:
    if name in ("report", "tasks"):  # report is a package that can be called
        return importlib.import_module(f"mireg.ablation.{name}")
    for place in (*_LIGHT, *_SLOW) if name in __all__ else ():
        module = importlib.import_module(f"mireg.ablation.{place}")
        if hasattr(module, name):
            return getattr(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
