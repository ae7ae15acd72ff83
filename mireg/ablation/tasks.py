"""Tasks: what a network is trained for, the metrics it is judged by, and the number of outputs it needs."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits, cross_entropy, mse_loss

from mireg.ablation.errors import UserError, check
from mireg.ablation.user_code import import_name

Loss = Callable[[Any, Any], Tensor]
"""A function of a network's outputs and the targets; returns a 0-dim tensor."""

LOSS = "loss"
"""The metric that every task has: the mean of its loss over the batches of a split."""


def arguments(inputs: Any) -> tuple[Any, ...]:
    """The arguments of a network's forward: several inputs are passed as ``network(*inputs)``."""
    return inputs if isinstance(inputs, tuple) else (inputs,)


def as_target(targets: Any) -> Tensor | None:
    """What the MI term gets by default: the targets if they are a tensor, else nothing."""
    return targets if isinstance(targets, Tensor) else None


@dataclass(frozen=True)
class Task:
    """A loss, the metrics, and the outputs that a network needs.

    Args:
        name: the name in messages and results.
        loss: a function of the network's outputs and a batch's targets, as they come from the data.
        metrics: for each metric a function of the outputs and targets of a whole split, as tensors on the CPU (lists of
            batches where they cannot be concatenated), and ``"max"`` or ``"min"``: the better direction. The first is
            the default. ``"loss"`` need not be named.
        outputs: the number given to the network's factory as ``outputs``: classes, values or the size of a vocabulary.
        target: what the MI term gets of a batch's targets, as for ``mi_loss``; None leaves the term label-free.
        shape: the shape that a network's outputs must have, given the targets; None leaves that to the loss.

    Raises:
        UserError: if there is no metric, or one without a function or direction.

    >>> task = Task("sign", lambda outputs, y: (outputs - y).square().mean(), {"loss": (mse_loss, "min")}, outputs=1)
    >>> task.modes
    {'loss': 'min'}
    """

    name: str
    loss: Loss
    metrics: Mapping[str, tuple[Callable[[Any, Any], Any], str]]
    outputs: int
    target: Callable[[Any], Tensor | None] = as_target
    shape: Callable[[Any], tuple[int, ...]] | None = None

    def __post_init__(self) -> None:
        check("task", self.name, callable(self.loss), "give it a loss, a function of outputs and targets")
        remedy = f'give task {self.name!r} at least one, as {{"NAME": (function, "max")}}'
        check("metrics", self.metrics, bool(self.metrics), remedy)
        for name, metric in self.metrics.items():
            good = isinstance(metric, tuple) and len(metric) == 2
            good = good and callable(metric[0]) and metric[1] in ("max", "min")
            check(f"metric {name!r} of task {self.name!r}", metric, good, 'give (function, "max") or (function, "min")')

    @property
    def modes(self) -> dict[str, str]:
        """The better direction of each metric."""
        return {**{name: mode for name, (_, mode) in self.metrics.items()}, LOSS: "min"}


def classification(outputs: int) -> Task:
    """A class for each sample: outputs (n, classes), targets (n,); -100 is skipped, as for the nodes of a graph."""
    metrics = {"accuracy": (accuracy, "max")}
    return Task("classification", cross_entropy, metrics, outputs, shape=lambda targets: (*targets.shape, outputs))


def regression(outputs: int) -> Task:
    """Values for each sample: outputs and targets (n, k)."""
    return Task("regression", mse_loss, {LOSS: (mse_loss, "min")}, outputs, shape=lambda targets: tuple(targets.shape))


def next_token(outputs: int) -> Task:
    """A token for each position: outputs (n, positions, vocabulary), targets (n, positions)."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(outputs.flatten(0, -2), targets.flatten())

    metrics = {LOSS: (loss, "min"), "accuracy": (accuracy, "max")}
    return Task("next-token", loss, metrics, outputs, shape=lambda targets: (*targets.shape, outputs))


def multi_label(outputs: int) -> Task:
    """Any number of labels for each sample: outputs (n, labels), targets (n, labels) of 0 and 1."""
    return Task(
        "multi-label",
        lambda outputs, targets: binary_cross_entropy_with_logits(outputs, targets.to(outputs.dtype)),
        {"f1": (f1, "max"), "average_precision": (average_precision, "max")},
        outputs,
        target=lambda targets: targets.float(),
        shape=lambda targets: tuple(targets.shape),
    )


def segmentation(outputs: int, ignore_index: int = -100) -> Task:
    """A class for each position: outputs (n, classes, positions ...), targets (n, positions ...)."""
    return Task(
        "segmentation",
        lambda outputs, targets: cross_entropy(outputs, targets, ignore_index=ignore_index),
        {"mean_iou": (lambda outputs, targets: mean_iou(outputs, targets, ignore_index), "max")},
        outputs,
        target=lambda targets: targets.masked_fill(targets == ignore_index, -100),
        shape=lambda targets: (len(targets), outputs, *targets.shape[1:]),
    )


def reconstruction(outputs: int) -> Task:
    """The input itself: outputs (n, ...) with as many values as an input."""

    def loss(outputs: Tensor, targets: Tensor) -> Tensor:
        return mse_loss(outputs.flatten(1), targets.flatten(1))

    return Task("reconstruction", loss, {LOSS: (loss, "min")}, outputs, target=lambda targets: targets.flatten(1))


TaskFactory = Callable[[int], Task]
"""Makes a task for a number of outputs."""

TASKS: dict[str, TaskFactory] = {
    "classification": classification,
    "regression": regression,
    "next-token": next_token,
    "multi-label": multi_label,
    "segmentation": segmentation,
    "reconstruction": reconstruction,
}
"""Tasks by name, as functions of the number of outputs."""

OF_VALUES = (regression,)
"""Those whose targets are values, even where a loader gives integers: as many outputs as a sample has values."""


def named_task(name: str) -> Task | TaskFactory:
    """A task of :data:`TASKS`, which needs a number of outputs, or one of the user's own, ``package.module:TASK``."""
    if ":" not in name:
        check("task", name, name in TASKS, f"choose from {', '.join(TASKS)}, or package.module:TASK")
        return TASKS[name]
    found = import_name(name)
    if not isinstance(found, Task):
        raise UserError(f"{name} is a {type(found).__name__}: give a mireg.ablation.Task")
    return found


def natural_loss(outputs: Tensor, targets: Tensor) -> Tensor:
    """Mean squared error of values, cross-entropy of classes: the loss of a term that knows no task."""
    return mse_loss(outputs, targets) if targets.is_floating_point() else cross_entropy(outputs, targets)


def accuracy(outputs: Tensor, targets: Tensor) -> float:
    """Fraction of targets (-100 left out) whose class, in the last dimension, has the largest output."""
    wanted = targets != -100
    return int((outputs.argmax(-1) == targets)[wanted].sum()) / max(1, int(wanted.sum()))


def f1(outputs: Tensor, targets: Tensor) -> float:
    """F1 over all labels of all samples, a label being predicted where its logit is positive."""
    predicted, true = outputs > 0, targets > 0
    return 2 * int((predicted & true).sum()) / max(1, int(predicted.sum()) + int(true.sum()))


def average_precision(outputs: Tensor, targets: Tensor) -> float:
    """Average precision, mean over the labels that some sample has."""
    from sklearn.metrics import average_precision_score  # slow to import

    labels = [k for k in range(targets.shape[1]) if bool((targets[:, k] > 0).any())]
    scores = [float(average_precision_score(targets[:, k] > 0, outputs[:, k])) for k in labels]
    return sum(scores) / len(scores) if scores else math.nan


def mean_iou(outputs: Tensor, targets: Tensor, ignore_index: int = -100) -> float:
    """Intersection over union, mean over the classes that are predicted or true somewhere."""
    classes, wanted = outputs.shape[1], targets != ignore_index
    pairs = targets[wanted] * classes + outputs.argmax(1)[wanted]
    confusion = torch.bincount(pairs, minlength=classes**2).reshape(classes, classes).double()
    inter, union = confusion.diag(), confusion.sum(0) + confusion.sum(1) - confusion.diag()
    return (inter[union > 0] / union[union > 0]).mean().item()
