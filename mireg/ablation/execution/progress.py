"""Progress of many runs: bars, plain lines, or one JSON object per line."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich import progress
from rich.console import Console

from mireg.ablation.events import EventHandler

PERIOD = 3600.0
"""Seconds over which the pace of finished runs is averaged for the remaining time."""


@contextmanager
def display(style: str) -> Iterator[EventHandler]:
    """Yield a handler that displays events; notes go to standard error in every style except JSON.

    Args:
        style: ``"bars"`` and ``"lines"`` on standard error, ``"json"`` on standard output, ``"none"``;
            ``"auto"`` is bars on a terminal and lines elsewhere.
    """
    console = Console(stderr=True, soft_wrap=True, highlight=False, markup=False)
    if style == "auto":
        style = "bars" if console.is_terminal else "lines"
    if style == "bars":
        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(bar_width=20),
            progress.MofNCompleteColumn(),
            progress.TimeElapsedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=console, speed_estimate_period=PERIOD) as bars:
            yield _Bars(bars)
    elif style == "json":
        yield lambda event: print(json.dumps(event), flush=True)
    else:
        yield _Lines(only_notes=style == "none")


def _text(note: dict[str, Any]) -> str:
    return f"{note['run']}: {note['text']}" if "run" in note else f"{note['text']}"


class _Lines:
    def __init__(self, only_notes: bool) -> None:
        self._only_notes = only_notes
        self._runs = self._finished = 0

    def __call__(self, event: dict[str, Any]) -> None:
        line = ""
        match event["event"]:
            case "note":
                line = _text(event)
            case _ if self._only_notes:
                return
            case "study":
                self._runs, self._finished = event["runs"], event["finished"]
                line = f"{self._finished}/{self._runs} runs finished"
            case "start" if event["step"]:
                steps = f"/{event['steps']}" if event["steps"] else ""
                line = f"{event['run']}: continues at step {event['step']}{steps}"
            case "finish":
                self._finished += 1
                line = f"{event['run']}: {event['failure'] or 'finished'} ({self._finished}/{self._runs})"
        if line:
            print(line, file=sys.stderr, flush=True)


class _Bars:
    def __init__(self, bars: progress.Progress) -> None:
        self._progress = bars
        self._bars: dict[str, progress.TaskID] = {}

    def __call__(self, event: dict[str, Any]) -> None:
        match event["event"]:
            case "study":
                self._runs = self._progress.add_task("runs", total=event["runs"], completed=event["finished"])
            case "start" | "step":
                run = event["run"]
                if run not in self._bars:
                    self._bars[run] = self._progress.add_task(run, total=event["steps"])
                self._progress.update(self._bars[run], completed=event["step"], total=event["steps"])
            case "finish":
                self._progress.advance(self._runs)
                if event["run"] in self._bars:
                    self._progress.remove_task(self._bars.pop(event["run"]))
            case "note":
                self._progress.console.print(_text(event))
