"""The training loop of a single run."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import torch
from torch import nn

from mireg.ablation.arms import ARMS, BASELINE
from mireg.ablation.data import Dataset
from mireg.ablation.errors import Stopped
from mireg.ablation.events import EventHandler
from mireg.ablation.storage.checkpoint import Checkpoints
from mireg.ablation.storage.files import write_result, write_tensors
from mireg.ablation.storage.provenance import plain, refuse_changes, settings
from mireg.ablation.storage.random_state import random_state, seed_everything, set_random_state
from mireg.ablation.storage.tensorboard import NoTracker, Tracker
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.study.metric import to_target
from mireg.ablation.training.batches import Batches
from mireg.ablation.training.diagnose import diagnose
from mireg.ablation.training.group import Group
from mireg.ablation.training.nonfinite import find_nonfinite, is_finite
from mireg.ablation.training.recipe import FlipCrop, autocast, lr_factor, make_optimizer, set_lr
from mireg.ablation.training.tasks import score, task_loss
from mireg.ablation.training.window import Window, clock
from mireg.measure import NoPairsError, measure

Build = Callable[[Cell, Dataset], nn.Module]
"""Builds the network of a cell, freshly initialised with torch's global random number generator."""

EXAMPLES = 8
"""Number of training samples from which a term finds the layers."""

PROBE = 128
"""Number of validation samples on which the MI of every pair is measured, the same for every arm."""


def train(
    spec: RunSpec,
    dataset: Dataset,
    build: Build,
    folder: Path,
    *,
    group: Group,
    checkpoint_seconds: float,
    tell: EventHandler,
    stop: Callable[[], bool],
) -> None:
    """Train one arm of one cell with one seed, and write ``result.json`` into its folder.

    Only the seed determines the initial weights and the order of the data, so that arms are paired.
    Only training steps are timed; for every arm the time excludes evaluation and logging.
    A loss or gradient that is not finite ends the run before the weights change; its result says where.
    A tuning run ends at the target.

    Args:
        spec: the run to train.
        dataset: the data, on any device.
        build: builds the network.
        folder: folder of the run. Training resumes from a checkpoint found there, bit-identically on a CPU.
        group: the processes that train it, and their device.
        checkpoint_seconds: minimum time between checkpoints; 0 writes one at every step.
        tell: receives the events.
        stop: called at every step; returns whether to save and stop.

    Raises:
        Stopped: if ``stop`` returned True.
        UserError: if the checkpoint in the folder has other settings.
        OSError: if a file cannot be written; the last checkpoint is kept.
    """
    cell, data, device = spec.cell, dataset.to(group.device), group.device
    metric = cell.measured
    seed_everything(spec.seed)
    network = build(cell, dataset).to(device)
    if initialise := ARMS[spec.arm].initialise:
        initialise(network, data.train.batch(slice(0, cell.batch_size))[0])
    term = ARMS[spec.arm].term(network, spec.term, data.train.batch(slice(0, EXAMPLES))[0])
    compiled: Any = torch.compile(term.model) if cell.compile else term.model
    forward = group.join(compiled)
    optimizer = make_optimizer(network, cell, spec.arm, term.parameters())
    scaler = torch.amp.GradScaler(device.type, enabled=cell.precision == "float16")
    augment = FlipCrop(spec.seed) if cell.augment == "flip-crop" else None
    batches = Batches(len(data.train), cell.batch_size, spec.seed)
    window = Window()

    start, seconds, curve = 0, 0.0, []
    checkpoints = Checkpoints(folder, note=lambda text: tell({"event": "note", "run": spec.path, "text": text}))
    checkpoint = checkpoints.load(device)
    if checkpoint is not None:
        refuse_changes(str(folder), settings(checkpoint["spec"]), settings(spec.as_dict()))
        start, seconds, curve = checkpoint["step"], checkpoint["seconds"], checkpoint["curve"]
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        scaler.load_state_dict(checkpoint["scaler"])
        batches.load_state_dict(checkpoint["batches"])
        if augment:
            augment.load_state_dict(checkpoint["augment"])
        window.load_state_dict(checkpoint["window"])
        set_random_state(checkpoint["random"], device)
        term.load_state_dict(checkpoint["term"])
    tell({"event": "start", "run": spec.path, "step": start, "steps": cell.steps})

    failure = None
    saved_at = time.monotonic()
    resumed_at = None if checkpoint is None else start
    with closing(Tracker(folder, spec, resumed_at) if group.writes else NoTracker()) as tracker:
        for step in range(start, cell.steps + 1):
            evaluated = bool(curve) and curve[-1]["step"] == step  # resumed from a checkpoint saved after evaluation
            if (step % cell.eval_every == 0 or step == cell.steps) and not evaluated:
                plane = looks_inside(spec, step, curve)
                point = {"step": step, "seconds": round(seconds, 4), **evaluate(network, data, spec, plane=plane)}
                if not math.isfinite(point[metric.validation]):
                    where = f"step {step}, arm {spec.arm}"
                    failure = f"{where}: the validation {metric.name} is not finite; a lower learning rate may help"
                    break
                point |= window.summary()
                if cell.diagnostics:
                    point["diagnostics"] = diagnose(term, optimizer, data, cell.batch_size, PROBE)
                curve.append(point)
                tracker.log(point)
                tell({"event": "step", "run": spec.path, "steps": cell.steps, **point})
                window = Window()
            if step == cell.steps or (spec.tuning and to_target(curve[-1:], cell.target, metric)):
                break
            stopping = group.any(stop())
            if group.writes and (stopping or time.monotonic() - saved_at >= checkpoint_seconds):
                tracker.flush()
                checkpoints.save(
                    {
                        "spec": plain(spec.as_dict()),
                        "step": step,
                        "seconds": seconds,
                        "curve": curve,
                        "network": network.state_dict(),
                        "optimizer": optimizer.state_dict(),
                        "scaler": scaler.state_dict(),
                        "batches": batches.state_dict(),
                        "augment": augment.state_dict() if augment else {},
                        "window": window.state_dict(),
                        "random": random_state(device),
                        "term": term.state_dict(),
                    }
                )
                saved_at = time.monotonic()
            if stopping:
                raise Stopped(spec.path)

            batch = next(batches)
            inputs, targets = data.train.batch(group.share(batch).to(device))
            if augment:
                inputs = augment(inputs, len(batch), group.share)
            began = clock(device)
            with autocast(cell, device):
                task = task_loss(data.task, forward(inputs), targets)
            added = term(task, targets)
            loss = task if added is None else task + added
            optimizer.zero_grad()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            took = clock(device) - began
            if group.any(not is_finite(loss, network, scaler)):  # not timed, like evaluation
                failure = group.first(find_nonfinite(step, spec.arm, task, loss, term, (data.task, inputs, targets)))
                break
            began = clock(device)
            set_lr(optimizer, lr_factor(cell, step))
            scaler.step(optimizer)
            scaler.update()
            took = max(0.0, took + clock(device) - began)
            seconds += took
            window.add(group.mean(task), added, took)

        result = {
            "cell": cell.name,
            "arm": spec.arm,
            "seed": spec.seed,
            "lr": spec.lr,
            "device": _device_name(device),
            "failure": failure,
            "verdict": term.verdict,
            "seconds": round(seconds, 4),
            "task": data.task,
            "final_split": "validation" if data.test is None else "test",
            metric.final: None if spec.tuning else _finite_or_none(score(network, data.final, data.task, metric.name)),
            "curve": curve,
            "spec": spec.as_dict(),
        }
        tracker.finish(result)
    if group.writes:
        if not spec.tuning:
            result["weights_sha256"] = write_tensors(folder / "weights.pt", network.state_dict())
        write_result(folder / "result.json", result)
        if failure is None:
            checkpoints.clear()
    tell({"event": "finish", "run": spec.path, "failure": failure})


def looks_inside(spec: RunSpec, step: int, curve: list[dict[str, Any]]) -> bool:
    """Whether an evaluation also measures the information plane: whenever the steps have doubled, and at the end.

    It costs as much as a few dozen steps of a deep network, so only runs of the baseline and of the MI term have it.
    """
    if spec.tuning or not (spec.arm == BASELINE or ARMS[spec.arm].estimator):
        return False
    last = max((point["step"] for point in curve if "plane" in point), default=None)
    return last is None or step == spec.cell.steps or step >= 2 * max(1, last)


def evaluate(network: nn.Module, data: Dataset, spec: RunSpec, *, plane: bool = False) -> dict[str, Any]:
    """Measure the validation metric, and the information in the layers (nats) on the probe samples.

    Returns:
        The metric; as ``mi`` the MI of every pair of successive layers, if finite; and as ``plane``, if requested, each
        layer's information about the ``target`` and about the ``input`` (:class:`mireg.measure.LayerRecord`).
    """
    metric = spec.cell.measured
    value = score(network, data.validation, data.task, metric.name)
    if not math.isfinite(value):
        return {metric.validation: value, "mi": {}}
    probe = data.validation.batch(slice(0, PROBE))
    try:
        found = measure(network, [probe], layers=spec.term.layer_spec, permutations=0, target=plane)
    except NoPairsError:  # a network of one layer can still be trained
        return {metric.validation: value, "mi": {}}
    point: dict[str, Any] = {
        metric.validation: value,
        "mi": {record.pair: record.nats for record in found if math.isfinite(record.nats)},
    }
    if plane:
        point["plane"] = {
            "target": [_finite_or_none(record.about_target) for record in found.layers],
            "input": [_finite_or_none(record.about_input) for record in found.layers],
        }
    return point


def _finite_or_none(value: float) -> float | None:
    """The value as JSON can store it: None if not finite."""
    return value if math.isfinite(value) else None


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
