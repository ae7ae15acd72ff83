"""The built-in training loop, a client of :class:`mireg.ablation.training.run.Run`."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.data import Dataset, load
from mireg.ablation.study.config import Cell
from mireg.ablation.tasks import arguments
from mireg.ablation.training.batches import Batches
from mireg.ablation.training.nonfinite import find_nonfinite, is_finite
from mireg.ablation.training.recipe import FlipCrop, autocast, lr_factor, make_optimizer, set_lr
from mireg.ablation.training.run import Run
from mireg.ablation.training.score import evaluate, finite_or_none, scales, score

Build = Callable[[Cell, Dataset], nn.Module]
"""Builds the network of a cell, freshly initialised with torch's global random number generator."""


@dataclass(frozen=True)
class Trainer:
    """The built-in training loop, called with a run of a study's cell.

    Attributes:
        build: builds the network of a cell; importable by name, since workers import it.
        data_dir: see :func:`mireg.ablation.data.load`.
    """

    build: Build
    data_dir: Path

    def load(self, cell: Cell) -> Dataset:
        """The data set of a cell."""
        return load(cell.dataset, self.data_dir, cell.context, cell.task)

    def __call__(self, run: Run) -> None:
        fit(run, self.load(run.spec.cell), self.build)


def fit(run: Run, dataset: Dataset, build: Build) -> None:
    """Train the network of a run's cell, for a run that has just begun.

    Only the seed determines the initial weights and the order of the data, so that arms are paired.
    Only training steps are timed; for every arm the time excludes evaluation and logging.
    A loss or gradient that is not finite ends the run before the weights change; its result says where.
    A tuning run ends at the target.
    """
    spec, group, device = run.spec, run.group, run.device
    cell, metric = spec.cell, spec.cell.measured
    with run.untimed():
        run.seconds = 0.0  # of training alone
        data, task = dataset.to(device), dataset.task
        term = run.attach(build(cell, dataset).to(device), data.train.batch(slice(0, cell.batch_size))[0])
        term.loss, term.target = task.loss, task.target
        network = term.network
        compiled: Any = torch.compile(term.model) if cell.compile else term.model
        forward = group.join(compiled)
        optimizer = make_optimizer(network, cell, spec.arm, term.parameters())
        scaler = torch.amp.GradScaler(device.type, enabled=cell.precision == "float16")
        augment = FlipCrop(spec.seed) if cell.augment == "flip-crop" else None
        batches = Batches(data.train, cell.batch_size, spec.seed, group)
        window = Window()
        state = {"network": network, "optimizer": optimizer, "scaler": scaler, "batches": batches, "window": window}
        state |= {"augment": augment} if augment else {}
        start = run.restore(**state)

    for step in range(start, cell.steps + 1):
        with run.untimed():
            where = f"step {step}, arm {spec.arm}"
            evaluated = bool(run.curve) and run.curve[-1]["step"] == step  # resumed from a checkpoint after evaluation
            if (step % cell.eval_every == 0 or step == cell.steps) and not evaluated:
                point = {"step": step, "seconds": round(run.seconds, 4), **evaluate(network, data, spec)}
                if not math.isfinite(point[metric.validation]):
                    run.failure = f"{where}: the validation {metric.name} is not finite; a lower learning rate may help"
                    break
                run.add(point | window.summary())
                window.clear()
            if step == cell.steps or run.reached:
                break
            run.save(step, **state)
            inputs, targets = next(batches)
            run.saw(targets)
            if augment:
                inputs = augment(inputs, group)
            before = run.seconds
        with autocast(cell, device):
            loss = task.loss(forward(*arguments(inputs)), targets)
        added = term.of_batch(loss, targets)
        whole = loss if added is None else loss + added
        optimizer.zero_grad()
        scaler.scale(whole).backward()
        scaler.unscale_(optimizer)
        with run.untimed():
            if group.any(not is_finite(whole, network, scaler)):
                run.failure = group.first(find_nonfinite(where, task, loss, whole, term, (inputs, targets)))
                break
        set_lr(optimizer, lr_factor(cell, step))
        scaler.step(optimizer)
        scaler.update()
        with run.untimed():
            window.add(group.mean(loss), added, run.seconds - before)

    with run.untimed():
        final = None if spec.tuning else finite_or_none(score(network, data.final, task, metric.name))
        split = "validation" if data.test is None else "test"
        run.outcome = {"task": task.name, "final_split": split, metric.final: final}
        if not (spec.tuning or run.failure):
            run.outcome["estimates"] = scales(term, data, spec)
        run.weights = None if spec.tuning else network.state_dict()


class Window:
    """Means over the steps between two evaluations."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self._steps: dict[str, list[Any]] = {"losses": [], "shares": [], "times": []}

    def add(self, task: Tensor, term: Tensor | None, seconds: float) -> None:
        self._steps["losses"].append(task.detach())
        if term is not None:
            size = term.detach().abs()
            # If the network is certain about a whole batch, the task loss is exactly 0, and a decayed term is 0 too.
            self._steps["shares"].append(size / (size + task.detach().abs()).clamp_min(torch.finfo(size.dtype).tiny))
        self._steps["times"].append(seconds)

    def state_dict(self) -> dict[str, Any]:
        return self._steps

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._steps = state

    def summary(self) -> dict[str, float | None]:
        """Mean task loss, mean share of the term in the loss (of absolute values), median step time."""

        def mean(values: list[Tensor]) -> float | None:
            return torch.stack(values).mean().item() if values else None

        times = sorted(self._steps["times"])
        return {
            "loss": mean(self._steps["losses"]),
            "term_share": mean(self._steps["shares"]),
            "step_ms": round(1000 * times[len(times) // 2], 3) if times else None,
        }
