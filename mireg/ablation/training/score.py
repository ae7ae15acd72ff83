"""What a task asks of a network's outputs, and its metrics over a split."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.data import Split, moved, samples_in
from mireg.ablation.tasks import LOSS, Task, arguments


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
