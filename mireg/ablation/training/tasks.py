"""Requirements of each task: the shape of the outputs, the loss and the metric."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from mireg.ablation.data.dataset import CLASSIFICATION, NEXT_TOKEN, REGRESSION, Dataset, Split

METRICS = {
    CLASSIFICATION: ("accuracy", "loss"),
    REGRESSION: ("loss",),
    NEXT_TOKEN: ("loss", "accuracy"),
}
"""Metrics of each task; the first is the default."""


def task_loss(task: str, outputs: Tensor, targets: Tensor) -> Tensor:
    """Cross-entropy, over samples or over all tokens; mean squared error in regression.

    Args:
        task: task of the data set.
        outputs: (n, classes), (n, k) or (n, positions, vocabulary).
        targets: (n,) int64, (n, k) float, or (n, positions) int64.

    Returns:
        0-dim tensor.
    """
    if task == REGRESSION:
        return mse_loss(outputs, targets)
    if task == NEXT_TOKEN:
        return cross_entropy(outputs.flatten(0, 1), targets.flatten())
    return cross_entropy(outputs, targets)


def check_outputs(dataset: Dataset, outputs: object, samples: int) -> None:
    """Check that a network's outputs have the shape the task needs.

    Raises:
        ValueError: if they do not, with both shapes.
    """
    places = dataset.input_shape if dataset.task == NEXT_TOKEN else ()
    wanted = (samples, *places, dataset.outputs)
    if not isinstance(outputs, Tensor):
        raise ValueError(f"the network returns a {type(outputs).__name__}: {dataset.task} needs a tensor {wanted}")
    if outputs.shape != wanted:
        raise ValueError(
            f"the network returns {tuple(outputs.shape)} for {samples} samples: {dataset.task} here needs {wanted}"
        )


@torch.no_grad()
def score(network: nn.Module, split: Split, task: str, metric: str, chunk: int = 1000) -> float:
    """Compute a metric over all samples of a split, in evaluation mode.

    Args:
        network: the network, on the split's device; left in training mode.
        split: the samples.
        task: task of the data set.
        metric: ``"accuracy"``, the fraction of samples or tokens whose class has the largest output, or ``"loss"``.
        chunk: number of samples at a time.
    """
    network.eval()
    total, count = 0.0, 0
    for first in range(0, len(split), chunk):
        inputs, targets = split.batch(slice(first, first + chunk))
        outputs = network(inputs)
        if metric == "accuracy":
            total += int((outputs.argmax(-1) == targets).sum())
            count += targets.numel()
        else:
            total += task_loss(task, outputs.float(), targets).item() * len(targets)
            count += len(targets)
    network.train()
    return total / count
