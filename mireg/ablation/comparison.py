"""Compare a custom training loop with and without the term, over paired seeds."""

from __future__ import annotations

import multiprocessing
import pickle
import re
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from numbers import Integral, Real
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from mireg.ablation import report
from mireg.ablation.arms import BASELINE
from mireg.ablation.errors import UserError, check
from mireg.ablation.execution.job import Setup
from mireg.ablation.execution.local import locally
from mireg.ablation.execution.progress import display
from mireg.ablation.execution.scheduler import run_study
from mireg.ablation.study.config import MOST_SEEDS, Loop, Study, Tuning
from mireg.ablation.study.metric import MODES
from mireg.ablation.training.group import Group
from mireg.ablation.training.run import Run

CHECKPOINT_SECONDS = 20.0
"""Minimum time between checkpoints of a loop that calls ``run.save``."""

Train = Callable[[Run], object]
"""A custom training loop; its return value is ignored."""


def compare(
    train: Train,
    arms: Sequence[str] = (BASELINE, "mi"),
    seeds: int = 6,
    metric: str = "accuracy",
    mode: str | None = None,
    goal: float | None = None,
    out: str | Path | None = None,
    workers: int = 1,
    *,
    lrs: Sequence[float] = (),
    target: float | None = None,
    fresh: bool = False,
    keep: bool = False,
) -> dict[str, Any]:
    """Run a training loop with every arm and seed, and report the effect of the term.

    The loop is a function of a :class:`mireg.ablation.Run`. Before each call every random number generator is seeded,
    so that the arms of a seed start from the same weights and see the same batches. Seconds are counted from the start
    of the call, excluding the time spent in ``run.log`` and under ``run.untimed()``. Repeating the call keeps finished
    runs, as long as the code is what it was.

    Args:
        train: the loop. With more than one worker, other processes import it by name.
        arms: ``"none"``, arms that ``mireg --list`` shows, arms of a file of your own, ``"package.module:Arm"``, and
            any other names: for these, and for arms that change a network's options or the optimizer, ``run.wrap``
            returns the network as it is, and the loop must look at ``run.arm``.
        seeds: number of seeds; with fewer than 6 the exact paired test cannot fall below 0.05.
        metric: the name of a number that ``train`` logs.
        mode: ``"max"`` if higher is better, ``"min"`` if lower is better; by default ``"min"`` for ``"loss"``, else
            ``"max"``.
        goal: value of the metric to reach; steps and seconds to it are compared. None compares only the final values.
        out: folder for the results, by default ``out/`` and the function's name.
        workers: number of processes.
        lrs: learning rates among which ``run.lr`` is chosen for each arm, in the same way for all, on two seeds that
            the comparison itself does not use.
        target: another name for ``goal``.
        fresh: remove the results in ``out`` first.
        keep: keep results in ``out`` although the code of the loop has changed since.

    Returns:
        The summary, as in ``summary.json``; ``report.html`` and TensorBoard curves are in the same folder.

    Raises:
        UserError: on invalid arguments, or if the folder holds other results, or results of other code.
        Exception: the first that the loop raised, as it was, with a note that names the runs which failed; a
            RuntimeError instead if it was raised in a worker process. The other runs are made, and kept.

    >>> def train(run):
    ...     model = run.wrap(nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))).to(run.device)
    ...     optimizer = torch.optim.Adam(model.parameters())
    ...     for step in range(1, 101):
    ...         x, y = batch()
    ...         loss = cross_entropy(model(x), y) + run.mi_loss(y)
    ...         optimizer.zero_grad()
    ...         loss.backward()
    ...         optimizer.step()
    ...         if step % 10 == 0:
    ...             run.log(step, accuracy=evaluate(model))
    >>> compare(train, goal=0.9)  # doctest: +SKIP
    """
    check("goal", goal, goal is None or target is None, "give goal or target, which is the same, but not both")
    check("fresh", fresh, not (fresh and keep), "give fresh or keep, not both")
    goal = goal if target is None else target
    _check(train, arms, seeds, goal, workers)
    study = _study(train, None if goal is None else float(goal), metric, mode, arms, seeds, lrs)
    folder = Path("out") / study.name if out is None else Path(out).expanduser()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    threads = max(1, torch.get_num_threads() // workers) if workers > 1 else None
    setup = Setup(folder, train, device, threads, CHECKPOINT_SECONDS)
    group = Group(device)
    with display("auto") as tell:
        execute = locally(setup, workers, group, tell, lambda: False)
        results = run_study(study, setup, execute, group=group, tell=tell, fresh=fresh, keep=keep)
    if failed := [result for result in results if "curve" not in result]:
        raise _failure(failed)
    return report.show(folder, Console(stderr=True))


def _study(
    train: Train,
    goal: float | None,
    metric: str,
    mode: str | None,
    arms: Sequence[str],
    seeds: int,
    lrs: Sequence[float],
) -> Study:
    """The study of one loop, named as its function is."""
    name = re.sub(r"[^A-Za-z0-9_.-]+", "-", _name(train)).strip(".-_") or "train"
    loop = Loop(name, "", "", goal, 0, lr=0.0, metric=metric, mode=mode or MODES.get(metric, "max"))
    tuning = Tuning(tuple(lrs), seeds=2, first_seed=MOST_SEEDS) if lrs else None
    return Study(name, (loop,), tuple(arms), seeds, tuning=tuning)


def _failure(results: Sequence[Mapping[str, Any]]) -> Exception:
    """The first error, itself if it was raised in this process; its text or a note names all the runs that failed."""
    text = "; ".join(f"{each['cell']}/{each['arm']}/seed-{each['seed']}: {each['failure']}" for each in results)
    text += "; finished runs are kept: the same call continues, with keep=True once your code has changed"
    error: Exception | None = results[0]["error"]
    if error is None:
        return RuntimeError(text)
    error.add_note(text)
    return error


def _name(train: Train) -> str:
    """Name of a function, of one with arguments already given, or of an object's class."""
    while isinstance(train, partial):
        train = train.func
    return getattr(train, "__name__", type(train).__name__)


def _check(train: Train, arms: Sequence[str], seeds: int, goal: float | None, workers: int) -> None:
    check("train", train, callable(train), "give a function of a run")
    check("arms", arms, not isinstance(arms, str), "give a tuple of names")
    check("goal", goal, goal is None or isinstance(goal, Real), "give a number")
    for name, value in (("seeds", seeds), ("workers", workers)):
        check(name, value, isinstance(value, Integral) and value >= 1, "give at least 1, a whole number")
    if workers == 1:
        return
    if multiprocessing.parent_process() is not None:
        raise RuntimeError(
            "compare() was called while a worker imported the script: put it under if __name__ == '__main__'"
        )
    interactive = getattr(train, "__module__", "") == "__main__" and not hasattr(sys.modules["__main__"], "__file__")
    try:
        pickle.dumps(train)
    except (pickle.PicklingError, AttributeError, TypeError):
        interactive = True
    if interactive:
        raise UserError(
            f"workers={workers}: other processes cannot import {_name(train)!r}; define it at the top level of a "
            "module, or give workers=1"
        )
