"""Load a user's own data from a function that returns them."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from mireg.ablation import tasks
from mireg.ablation.data.dataset import PARTS, Dataset, Samples, mean_and_std
from mireg.ablation.data.loaded import Loaded
from mireg.ablation.errors import UserError, one_line
from mireg.ablation.tasks import Task, TaskFactory, arguments
from mireg.ablation.user_code import blame


def load_own(name: str, loader: Any, task: Task | TaskFactory | None = None) -> Dataset:
    """Call the function ``package.module:loader`` and check its data.

    It takes no argument and returns a tuple of the training part, the validation part and, if there is one, the test
    part, and behind these, optionally, a :class:`Task`. A part is a ``torch.utils.data.Dataset`` of (input, target)
    pairs, tensors or arrays (inputs, targets), or batches: a DataLoader or a list. Without a ``task``, it is the
    loader's, or inferred from the targets, as described in docs/tasks.md.

    Raises:
        UserError: if it is no function or fails, or its data are unsuitable for training.
    """
    if not callable(loader):
        raise UserError(f"{name}: {type(loader).__name__} is not a function")
    try:
        found = loader()
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {blame(error)}") from error
    parts = list(found) if isinstance(found, tuple | list) else []
    returned = parts.pop() if parts and isinstance(parts[-1], Task) else None
    if len(parts) not in (2, 3):
        raise UserError(
            f"{name} returned {_described(found)}: return a tuple (train, validation) or (train, validation, test)"
        )
    own = task or returned
    if any(_is_loaded(part) for part in parts):
        return _of_batches(name, parts, own)
    rebuilds = own == tasks.reconstruction or (isinstance(own, Task) and own.name == "reconstruction")
    if rebuilds:  # a part may be the inputs alone
        parts = [(part, part) if isinstance(part, Tensor | np.ndarray) else part for part in parts]
    samples = [_samples(f"{name}: {part}", value) for part, value in zip(PARTS, parts, strict=False)]
    if own in tasks.OF_VALUES:
        samples = [replace(part, targets=part.targets.float().reshape(len(part), -1)) for part in samples]
    _check_alike(name, samples)
    if not isinstance(own, Task):
        own = _inferred(name, samples, own)
    if rebuilds:
        samples = [replace(part, targets=None) for part in samples]
    return Dataset(name, own, *_standardised(samples))


def _is_loaded(part: Any) -> bool:
    """Whether a part consists of batches, not of samples."""
    if isinstance(part, list):
        return bool(part) and isinstance(part[0], tuple | list)
    return isinstance(part, Iterable) and not isinstance(part, tuple | TorchDataset | Tensor | np.ndarray)


def _of_batches(name: str, parts: list[Any], task: Task | TaskFactory | None) -> Dataset:
    loaded = [Loaded(part, f"{name}: {where}") for where, part in zip(PARTS, parts, strict=False) if _is_loaded(part)]
    if len(loaded) < len(parts):
        raise UserError(f"{name}: one part consists of batches, another does not: give all parts in one form")
    if not isinstance(task, Task):
        targets = loaded[0].batch(slice(None))[1]
        if task is None and isinstance(targets, Tensor) and not targets.is_floating_point() and targets.ndim == 1:
            task = tasks.classification
        if task is None or not isinstance(targets, Tensor):
            raise UserError(f"{name}: the targets of a batch are {_described(targets)}: return a Task behind the parts")
        task = task(max(_outputs(task, x, y) for x, y in loaded[0].chunks(0)))
    return Dataset(name, task, *loaded)


def _samples(where: str, part: Any) -> Samples:
    """Inputs and targets of a part, ready for a network and a loss."""
    if isinstance(part, TensorDataset):
        part = part.tensors
    if isinstance(part, TorchDataset):
        part = _read_through(where, part)
    if not isinstance(part, tuple | list) or len(part) < 2:
        raise UserError(f"{where} is {_described(part)}: give a Dataset of (input, target) pairs, or two tensors")
    given = part[0] if isinstance(part[0], tuple) else part[:-1]
    inputs = [_tensor(f"{where} inputs", value) for value in given]
    targets = [_tensor(f"{where} targets", value) for value in arguments(part[-1])]
    count = len(inputs[0])
    for what, others in (("inputs beside them", inputs), ("targets", targets)):
        if alone := [len(other) for other in others if len(other) != count]:
            raise UserError(f"{where} has {count} inputs but {alone[0]} {what}")
    if count < 2:
        raise UserError(f"{where} has {count} samples: give at least 2")
    if inputs[0].ndim < 2:
        raise UserError(f"{where} inputs have shape {tuple(inputs[0].shape)}: give (samples, features...)")
    targets = [y[:, None] if y.is_floating_point() and y.ndim == 1 else y for y in targets]
    targets = [y if y.is_floating_point() or (y.dtype == torch.bool and y.ndim == 2) else y.long() for y in targets]
    inputs = [x.to(torch.uint8) if x.dtype == torch.bool else x for x in inputs]
    inputs = [x if x.is_floating_point() or x.dtype == torch.uint8 else x.long() for x in inputs]
    columns: list[Any] = [tuple(each) if len(each) > 1 else each[0] for each in (inputs, targets)]
    return Samples(columns[0], columns[1])


def _standardised(parts: list[Samples]) -> list[Samples]:
    """The parts, with the mean and deviation over the training part for inputs that are bytes."""
    scales = [mean_and_std(x) if x.dtype == torch.uint8 else (0.0, 1.0) for x in arguments(parts[0].inputs)]
    if len(scales) == 1:
        return [replace(part, mean=scales[0][0], std=scales[0][1]) for part in parts]
    return [replace(part, inputs=tuple(map(_scaled, part.inputs, scales))) for part in parts]  # each by its own


def _scaled(x: Tensor, scale: tuple[float, float]) -> Tensor:
    return (x.float() - scale[0]) / scale[1] if x.dtype == torch.uint8 else x


def _read_through(where: str, dataset: TorchDataset[Any]) -> tuple[Tensor, ...]:
    """Read every sample of a Dataset once."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"{where} is an iterable {type(dataset).__name__}: give one with a length")
    try:
        samples = [dataset[index] for index in range(len(dataset))]
        columns = zip(*samples, strict=True)
        return tuple(torch.stack([torch.as_tensor(value) for value in column]) for column in columns)
    except (Exception, SystemExit) as error:
        raise UserError(f"{where}: no (input, target) pairs of tensors of one shape: {blame(error)}") from error


def _tensor(where: str, value: Any) -> Tensor:
    if not isinstance(value, Tensor | np.ndarray):
        raise UserError(f"{where} are {_described(value)}: give a tensor")
    try:
        found = torch.as_tensor(value).detach().cpu()
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: {one_line(error)}") from error
    if found.is_complex():
        raise UserError(f"{where} are complex: give real numbers")
    if found.ndim == 0:
        raise UserError(f"{where} are a single number: give one entry per sample")
    if found.is_floating_point():
        found = found.float()
        if not found.isfinite().all():
            row = int((~found.isfinite()).reshape(len(found), -1).any(1).nonzero()[0])
            raise UserError(f"{where} hold NaN or infinite values, first in sample {row}: remove or fill them")
    return found


def _check_alike(name: str, parts: list[Samples]) -> None:
    for part, samples in zip(PARTS, parts, strict=False):
        for what in ("inputs", "targets"):
            for value, first in zip(*(arguments(getattr(of, what)) for of in (samples, parts[0])), strict=False):
                if (value.shape[1:], value.dtype) != (first.shape[1:], first.dtype):
                    raise UserError(
                        f"{name}: {part} {what} are {_described(value)}, those of train {_described(first)}: "
                        "give all parts one shape and type"
                    )


def _inferred(name: str, parts: list[Samples], task: TaskFactory | None) -> Task:
    """The task that the targets tell, with the number of outputs that a network needs."""
    inputs, targets = arguments(parts[0].inputs)[0], parts[0].targets
    if not isinstance(targets, Tensor):
        what = f"targets are {_described(targets)}"
        raise UserError(f"{name}: {what}: return a Task behind the parts, or give --task")
    if task is None:
        task = _natural(name, inputs, targets)
    if bool((targets == targets[:1]).all()) and task not in (tasks.next_token, tasks.reconstruction):
        raise UserError(f"{name}: all train targets are the same, {targets[0].tolist()}: there is nothing to learn")
    for part, samples in zip(PARTS, parts, strict=False):
        counted = samples.targets[samples.targets != -100]  # which loss, metric and term skip
        if task in (tasks.classification, tasks.next_token) and (counted < 0).any():
            raise UserError(f"{name}: {part} targets hold {int(counted.min())}: count classes from 0")
    return task(max(_outputs(task, arguments(part.inputs)[0], part.targets) for part in parts))


def _natural(name: str, inputs: Tensor, targets: Tensor) -> TaskFactory:
    if targets.ndim == 2 and (targets.is_floating_point() or targets.dtype == torch.bool):
        return tasks.regression if targets.is_floating_point() else tasks.multi_label
    if not targets.is_floating_point():
        if targets.ndim == 1:
            return tasks.classification
        if inputs.dtype == torch.int64 and targets.shape == inputs.shape and targets.ndim == 2:
            return tasks.next_token
        if targets.ndim > 2 and targets.shape[1:] == inputs.shape[2:]:
            return tasks.segmentation
    raise UserError(
        f"{name}: targets are {_described(targets)} beside inputs {_described(inputs)}: give int64 classes (n,), "
        "floats (n,) or (n, k), int64 tokens (n, positions) for both, bool labels (n, k), a class for each position of "
        "maps, or a task (docs/tasks.md)"
    )


def _outputs(task: TaskFactory, inputs: Any, targets: Tensor) -> int:
    """Number of outputs that a network needs for these samples."""
    if task == tasks.reconstruction:
        return math.prod(inputs.shape[1:])
    if task in (*tasks.OF_VALUES, tasks.multi_label):
        return math.prod(targets.shape[1:])
    tokens = (inputs, targets) if task == tasks.next_token else (targets,)
    return max(int(part.max()) for part in tokens) + 1


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
