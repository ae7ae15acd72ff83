"""Many runs: what is done is skipped, the rest is shared out over worker processes."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from mireg.ablation.config import RunSpec, Study
from mireg.ablation.data import load
from mireg.ablation.errors import UserError
from mireg.ablation.run import Build, evaluate, train
from mireg.ablation.storage import read_json, write_json

RUNS = "runs"
"""Folder of the runs inside a study's, and the log directory for TensorBoard."""


def run_study(
    study: Study, out: Path, build: Build, *, data_dir: Path, device: torch.device, workers: int, console: Console
) -> list[dict[str, Any]]:
    """Run what is missing of a study and return the results of all its runs.

    Args:
        study: what to run.
        out: the study's folder; finished runs in it are taken as they are.
        build: makes the network of a cell; importable by name, since workers import it.
        data_dir: see :func:`mireg.ablation.data.load`.
        device: to train on.
        workers: processes; 1 runs everything in this one.
        console: for progress.

    Raises:
        UserError: on bad model options, missing data, a folder that cannot be written or that holds
            runs of other settings. All of these are found before the first step.
    """
    runs = study.runs()
    for cell in study.cells:
        _check_builds(study, cell.name, build, data_dir)
    try:
        write_json(out / "study.json", {"study": study.name, "arms": study.arms})
    except OSError as error:
        raise UserError(
            f"cannot write to --out {out} ({error.strerror}): give a folder that you may write to"
        ) from error
    missing = [spec for spec in runs if _finished(out, spec) is None]
    with _progress(console, missing, done=len(runs) - len(missing)) as progress:
        if workers <= 1 or len(missing) <= 1:
            for spec in missing:
                _work(spec, out, build, data_dir, device, progress.put)
        else:
            _share_out(missing, out, build, data_dir, device, min(workers, len(missing)), progress)
    return [read_json(out / RUNS / spec.path / "result.json") for spec in runs]


def _work(spec: RunSpec, out: Path, build: Build, data_dir: Path, device: torch.device, put: Any) -> None:
    dataset = load(spec.cell.dataset, data_dir)
    folder = out / RUNS / spec.path
    train(spec, dataset, build, folder, device=device, on_step=lambda step: put((spec.path, step)))


def _share_out(
    missing: list[RunSpec], out: Path, build: Build, data_dir: Path, device: torch.device, workers: int, progress: Any
) -> None:
    context = multiprocessing.get_context("spawn")  # a forked process cannot use CUDA, nor torch's thread pool
    threads = max(1, (os.cpu_count() or 1) // workers)
    with context.Manager() as manager:
        queue = manager.Queue()
        with ProcessPoolExecutor(workers, context, initializer=torch.set_num_threads, initargs=(threads,)) as pool:
            waiting = {pool.submit(_work, spec, out, build, data_dir, device, queue.put) for spec in missing}
            try:
                while waiting:
                    done, waiting = wait(waiting, timeout=0.2, return_when=FIRST_EXCEPTION)
                    while not queue.empty():
                        progress.put(queue.get())
                    for future in done:
                        future.result()  # raises what the worker raised
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _finished(out: Path, spec: RunSpec) -> dict[str, Any] | None:
    """The result of a run that is done, or None.

    Raises:
        UserError: if the folder holds that run with other settings.
    """
    result = read_json(out / RUNS / spec.path / "result.json")
    if result is None:
        return None
    wanted = _plain(spec.as_dict())
    if result["spec"] != wanted:
        changed = [key for key in _flat(wanted) if _flat(wanted)[key] != _flat(result["spec"]).get(key)]
        raise UserError(
            f"{out} holds {spec.path} with other settings ({', '.join(changed)}): "
            "give another --out, or remove that folder"
        )
    return dict(result)


def _plain(value: Any) -> Any:
    """As it comes back from JSON."""
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, item in value.items():
        flat |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return flat


def _check_builds(study: Study, name: str, build: Build, data_dir: Path) -> None:
    """Build a cell's network once, and find its layers, so that a bad request fails before any work."""
    spec = next(spec for spec in study.runs() if spec.cell.name == name)
    dataset = load(spec.cell.dataset, data_dir)
    try:
        with torch.random.fork_rng(devices=[]):
            evaluate(build(spec.cell, dataset), dataset.validation, spec)
    except ValueError as error:
        raise UserError(str(error)) from error


class _Bars:
    def __init__(self, progress: Progress, steps: dict[str, int]) -> None:
        self._progress = progress
        self._steps = steps
        self._runs = progress.tasks[0].id
        self._bars: dict[str, Any] = {}

    def put(self, event: tuple[str, int]) -> None:
        """Move the bar of a run."""
        path, step = event
        if path not in self._bars:
            self._bars[path] = self._progress.add_task(path, total=self._steps[path])
        self._progress.update(self._bars[path], completed=step)
        if step == self._steps[path]:
            self._progress.update(self._bars[path], visible=False)
            self._progress.advance(self._runs)


@contextmanager
def _progress(console: Console, missing: list[RunSpec], done: int) -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        progress.add_task("runs", total=len(missing) + done, completed=done)
        yield _Bars(progress, {spec.path: spec.cell.steps for spec in missing})
