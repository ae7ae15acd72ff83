"""Curves that anything wrote for TensorBoard."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from mireg.ablation.errors import UserError, nearest

RUN_NAME = re.compile(r"(?P<arm>.*?)[-_. ]*(?:(?:seed|run|version|s)[-_=. ]*)?(?P<seed>\d+)", re.IGNORECASE)


def read_scalars(folder: Path, metric: str | None) -> tuple[list[dict[str, Any]], str]:
    """Read the curves of a metric from TensorBoard runs in ``[STUDY/]ARM/seed-N`` or ``[STUDY/]ARM-seed-N``.

    Args:
        folder: folder above the runs.
        metric: a tag, or its end behind a slash; None if there is only one tag.

    Returns:
        Rows with ``study``, ``arm``, ``seed``, ``step``, the metric and ``seconds`` (since the file was opened, so
        evaluation counts); and the name of the metric.

    Raises:
        UserError: if there are no such runs, or no single such tag.
    """
    found: dict[tuple[str, str, int], Any] = {}
    for path in sorted({file.parent for file in folder.rglob("events.out.tfevents.*")}):
        events = EventAccumulator(str(path), size_guidance={"scalars": 0})
        events.Reload()
        if not events.Tags()["scalars"]:
            continue
        *above, last = path.relative_to(folder).parts or (path.name,)
        match = RUN_NAME.fullmatch(last)
        if match is None or not (match["arm"] or above):
            raise UserError(f"{path}: no arm and seed in its name: call the folder of a run ARM/seed-N or ARM-seed-N")
        arm = match["arm"] or above.pop()
        run = "/".join(above) or folder.resolve().name, arm, int(match["seed"])
        if run in found:
            raise UserError(f"{path}: a second run of study {run[0]}, arm {arm}, seed {run[2]}: give it its own seed")
        found[run] = events
    if not found:
        raise UserError(f"{folder} holds neither finished runs nor TensorBoard scalars: give a study's folder or a CSV")
    tags = dict.fromkeys(tag for events in found.values() for tag in events.Tags()["scalars"])
    tag = _tag(folder, list(tags), metric)
    name = tag.removeprefix("validation/") if metric is None else metric
    rows: list[dict[str, Any]] = []
    for (study, arm, seed), events in found.items():
        if tag not in events.Tags()["scalars"]:
            raise UserError(f"{folder}: study {study}, arm {arm}, seed {seed} has no tag {tag!r}: log it, or remove it")
        began = events.FirstEventTimestamp()
        for event in events.Scalars(tag):
            row = {"study": study, "arm": arm, "seed": seed, "step": event.step, name: event.value}
            rows.append({**row, "seconds": max(0.0, event.wall_time - began)})
    return rows, name


def _tag(folder: Path, tags: Sequence[str], metric: str | None) -> str:
    fitting = [tag for tag in tags if metric is None or tag.endswith(f"/{metric}")]
    chosen = [metric] if metric in tags else fitting
    if len(chosen) != 1:
        what = "several tags" if metric is None else f"no single tag {metric!r}{nearest(metric, tags)}"
        raise UserError(f"{folder} has {what}: name one with --metric from {', '.join(tags)}")
    return str(chosen[0])
