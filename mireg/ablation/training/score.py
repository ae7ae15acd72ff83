"""What is measured of a network: that its outputs suit the task, metrics over a split, information in its layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms import LossTerm
from mireg.ablation.data import Dataset, Split, moved, samples_in
from mireg.ablation.study.config import RunSpec
from mireg.ablation.tasks import LOSS, Task, arguments
from mireg.measure import Measurement, NoPairsError, measure

PROBE = 128
"""Number of validation samples on which the MI of every pair is measured, the same for every arm."""


def check_outputs(task: Task, outputs: object, targets: Any) -> None:
    """Raise a ValueError unless a network's outputs have the shape that the task needs, if it names one."""
    if task.shape is None:
        return
    wanted = task.shape(targets)
    if not isinstance(outputs, Tensor):
        raise ValueError(f"the network returns a {type(outputs).__name__}: {task.name} needs a tensor {wanted}")
    if outputs.shape != wanted:
        raise ValueError(
            f"the network returns {tuple(outputs.shape)} for {len(targets)} samples: {task.name} here needs {wanted}"
        )


@torch.no_grad()
def score(network: nn.Module, split: Split, task: Task, metric: str, chunk: int = 1000) -> float:
    """Compute a metric over all samples of a split, in evaluation mode; the network is left in training mode.

    The metric is one of the task's, or ``"loss"``: the mean over the samples of the loss of each batch. Samples in
    memory are taken in chunks.
    """
    network.eval()
    total, count = 0.0, 0
    found: list[tuple[Any, Any]] = []
    for inputs, targets in split.chunks(chunk):
        outputs = network(*arguments(inputs))
        outputs = outputs.float() if isinstance(outputs, Tensor) else outputs
        if metric == LOSS:
            number = samples_in(inputs)
            total += task.loss(outputs, targets).item() * number
            count += number
        else:
            found.append((outputs, targets))
    network.train()
    if metric == LOSS:
        return total / count
    columns: list[Any] = [moved(list(column), torch.device("cpu")) for column in zip(*found, strict=True)]
    if all(isinstance(x, Tensor) and x.shape[1:] == column[0].shape[1:] for column in columns for x in column):
        columns = [torch.cat(column) for column in columns]
    return float(task.metrics[metric][0](*columns))


def evaluate(network: nn.Module, data: Dataset, spec: RunSpec) -> dict[str, Any]:
    """Measure the validation metric, and the information in the layers (nats) on the probe samples.

    Returns:
        The metric, and as ``mi`` the MI of every pair of successive layers, if finite.
    """
    metric = spec.cell.measured
    value = score(network, data.validation, data.task, metric.name)
    found = measure_layers(network, data, spec) if math.isfinite(value) else None
    return {metric.validation: value, "mi": {r.pair: r.nats for r in found or () if math.isfinite(r.nats)}}


def measure_layers(network: nn.Module, data: Dataset, spec: RunSpec, *, permutations: int = 0) -> Measurement | None:
    """Measure the layers on the probe samples; None if there are no two layers, or several inputs."""
    inputs = data.validation.batch(slice(0, PROBE))[0]
    if isinstance(inputs, tuple):
        return None
    try:
        return measure(network, [inputs], layers=spec.term.layer_spec, permutations=permutations)
    except NoPairsError:  # a network of one layer can still be trained
        return None


def scales(term: LossTerm, data: Dataset, spec: RunSpec) -> dict[str, dict[str, Any]]:
    """How to read what a run ``rewarded``, and the ``mi`` of its layers: ``estimator``, ``samples``, floor and ceiling.

    The floor is the estimate of the trained network's layers with their rows shuffled, mean over layers or pairs.
    """
    inputs, targets = data.train.batch(slice(0, spec.term.samples))
    found, rewarded = measure_layers(term.network, data, spec, permutations=2), term.scale(inputs, term.target(targets))
    known = {"rewarded": {**rewarded, "floor": finite_or_none(rewarded["floor"])}} if rewarded else {}
    if found is None:
        return known
    floor = finite_or_none(sum(record.null_floor for record in found) / len(found))
    scale = {"estimator": found.estimator, "samples": found.samples, "floor": floor, "ceiling": found[0].ceiling}
    return {**known, "mi": scale}


def finite_or_none(value: float) -> float | None:
    """The value as JSON can store it: None if not finite."""
    return value if math.isfinite(value) else None
