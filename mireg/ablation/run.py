"""One training run, top to bottom."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from mireg.ablation.config import Cell, RunSpec
from mireg.ablation.data import Dataset, Split
from mireg.ablation.diagnose import diagnose
from mireg.ablation.storage import read_tensors, write_json, write_tensors
from mireg.ablation.tracking import Tracker
from mireg.diagnostics import layer_parameters
from mireg.measure import measure
from mireg.taps import Taps
from mireg.wrapper import MIRegularized

Build = Callable[[Cell, Dataset], nn.Module]
"""Makes the network of a cell, freshly initialised from torch's global random-number stream."""

PROBE = 128
"""Validation samples on which the MI of every pair is measured, the same for every arm."""

CHECKPOINT_SECONDS = 20.0


def train(
    spec: RunSpec,
    dataset: Dataset,
    build: Build,
    folder: Path,
    *,
    device: torch.device,
    on_step: Callable[[int], None] = lambda step: None,
) -> dict[str, Any]:
    """Train one arm of one cell from one seed, and write ``result.json`` into its folder.

    The seed alone decides the initial weights and the order of the data, so that arms are paired.
    Time is counted in training steps only; evaluation and logging stand outside it for every arm.
    A loss that is not finite ends the run; its result says where.

    Args:
        spec: what to train.
        dataset: the data, on any device.
        build: makes the network.
        folder: of the run. A checkpoint found in it is resumed.
        device: to train on.
        on_step: told the number of finished steps at each evaluation.

    Returns:
        The result as written: the curve, and the accuracy on the test set after the last step.
    """
    cell, data = spec.cell, dataset.to(device)
    torch.manual_seed(spec.seed)
    network = build(cell, dataset).to(device)
    model = _wrapped(network, spec)
    optimizer = _optimizer(network, cell, spec.arm)
    batches = Batches(len(data.train), cell.batch_size, spec.seed)

    start, seconds, curve = 0, 0.0, []
    checkpoint = read_tensors(folder / "checkpoint.pt", device)
    if checkpoint is not None:
        start, seconds, curve = checkpoint["step"], checkpoint["seconds"], checkpoint["curve"]
        network.load_state_dict(checkpoint["network"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        batches.load_state_dict(checkpoint["batches"])
        _set_random_state(checkpoint["random"], device)
        if isinstance(model, MIRegularized):
            model.regularizer.load_state_dict(checkpoint["regularizer"])

    tracker = Tracker(folder, spec, start)
    window = Window()
    failure = None
    saved_at = time.monotonic()
    for step in range(start, cell.steps + 1):
        if (step % cell.eval_every == 0 and step > start) or step == 0 or step == cell.steps:
            point = {"step": step, "seconds": seconds, **evaluate(network, data.validation, spec), **window.summary()}
            if cell.diagnostics:
                point["diagnostics"] = diagnose(model, optimizer, data, cell.batch_size, PROBE)
            curve.append(point)
            tracker.log(point)
            on_step(step)
            window = Window()
            if time.monotonic() - saved_at > CHECKPOINT_SECONDS:
                state = {
                    "step": step,
                    "seconds": seconds,
                    "curve": curve,
                    "network": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "batches": batches.state_dict(),
                    "random": _random_state(device),
                    "regularizer": model.regularizer.state_dict() if isinstance(model, MIRegularized) else None,
                }
                write_tensors(folder / "checkpoint.pt", state)
                saved_at = time.monotonic()
        if step == cell.steps:
            break

        images, labels = data.train.batch(next(batches).to(device))
        began = time.perf_counter()
        task = cross_entropy(model(images), labels)
        term = model.mi_loss() if isinstance(model, MIRegularized) else None
        loss = task if term is None else task + term
        if not math.isfinite(loss.item()):
            failure = _diagnose(step, spec.arm, task, model)
            break
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        took = time.perf_counter() - began
        seconds += took
        window.add(task, term, took)

    result = {
        "cell": cell.name,
        "arm": spec.arm,
        "seed": spec.seed,
        "lr": cell.lr_of(spec.arm),
        "failure": failure,
        "seconds": seconds,
        "test_accuracy": accuracy(network, data.test),
        "curve": curve,
        "spec": spec.as_dict(),
    }
    tracker.close(result)
    write_tensors(folder / "weights.pt", network.state_dict())
    write_json(folder / "result.json", result)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return result


class Batches(Iterator[Tensor]):
    """Indices of one batch after another, each epoch in a new random order, short batches left out."""

    def __init__(self, samples: int, batch_size: int, seed: int) -> None:
        self.samples = samples
        self.batch_size = min(batch_size, samples)
        self._generator = torch.Generator().manual_seed(seed)
        self._order = torch.empty(0, dtype=torch.int64)
        self._next = 0

    def __next__(self) -> Tensor:
        if self._next + self.batch_size > len(self._order):
            self._order = torch.randperm(self.samples, generator=self._generator)
            self._next = 0
        batch = self._order[self._next : self._next + self.batch_size]
        self._next += self.batch_size
        return batch

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state(), "order": self._order, "next": self._next}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._generator.set_state(state["generator"].cpu())
        self._order = state["order"].cpu()
        self._next = state["next"]


class Window:
    """Means over the steps between two evaluations."""

    def __init__(self) -> None:
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._times: list[float] = []

    def add(self, task: Tensor, term: Tensor | None, seconds: float) -> None:
        self._losses.append(task.detach())
        if term is not None:
            self._shares.append(term.detach().abs() / (term.detach().abs() + task.detach().abs()))
        self._times.append(seconds)

    def summary(self) -> dict[str, float | None]:
        """Mean task loss, mean share of the term in the loss (of absolute values), median step time."""

        def mean(values: list[Tensor]) -> float | None:
            return torch.stack(values).mean().item() if values else None

        times = sorted(self._times)
        return {
            "loss": mean(self._losses),
            "term_share": mean(self._shares),
            "step_ms": 1000 * times[len(times) // 2] if times else None,
        }


@torch.no_grad()
def accuracy(network: nn.Module, split: Split, chunk: int = 1000) -> float:
    """Share of the samples whose largest output is their label's."""
    network.eval()
    right = 0
    for first in range(0, len(split), chunk):
        images, labels = split.batch(slice(first, first + chunk))
        right += int((network(images).argmax(1) == labels).sum())
    network.train()
    return right / len(split)


def evaluate(network: nn.Module, validation: Split, spec: RunSpec) -> dict[str, Any]:
    """Validation accuracy, and the MI in nats of every successive pair on the probe samples."""
    probe = validation.batch(slice(0, PROBE))[0]
    found = measure(network, [probe], layers=_layers(spec))
    return {
        "validation_accuracy": accuracy(network, validation),
        "mi": {record.pair: record.nats for record in found},
    }


def _wrapped(network: nn.Module, spec: RunSpec) -> nn.Module:
    regularizer = spec.term.regularizer(spec.arm)
    if regularizer is None:
        return network
    return MIRegularized(network, Taps(network, _layers(spec)), regularizer)


def _layers(spec: RunSpec) -> Any:
    return "auto" if spec.term.layers == ("auto",) else list(spec.term.layers)


def _optimizer(network: nn.Module, cell: Cell, arm: str) -> torch.optim.Optimizer:
    lr, parameters = cell.lr_of(arm), dict(network.named_parameters())
    groups: list[dict[str, Any]] = [{"params": list(parameters.values()), "lr": lr}]
    if cell.lr_divisor > 1:
        layers = layer_parameters(network)
        groups = [
            {"params": [parameters[name] for name in layer], "lr": lr / cell.lr_divisor ** (len(layers) - 1 - index)}
            for index, layer in enumerate(layers)
        ]
    if cell.optimizer == "sgd":
        return torch.optim.SGD(groups, momentum=0.9)
    return torch.optim.Adam(groups)


def _diagnose(step: int, arm: str, task: Tensor, model: nn.Module) -> str:
    """Which part of the loss broke, where and in which arm."""
    if not torch.isfinite(task):
        return f"step {step}, arm {arm}: the task loss is {task.item()}; a lower learning rate may help"
    terms = model.mi_terms() if isinstance(model, MIRegularized) else {}
    broken = [pair for pair, nats in terms.items() if not torch.isfinite(nats)]
    return f"step {step}, arm {arm}: the MI term is not finite, in {', '.join(broken) or 'its weight'}"


def _random_state(device: torch.device) -> dict[str, Tensor]:
    state = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device)
    return state


def _set_random_state(state: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(state["cpu"].cpu())
    if device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"].cpu(), device)
