"""Load a user's own data from a function that returns them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset as TorchDataset
from torch.utils.data import TensorDataset

from mireg.ablation.data.dataset import CLASSIFICATION, NEXT_TOKEN, REGRESSION, Dataset, Samples
from mireg.ablation.errors import UserError, one_line
from mireg.ablation.user_code import blame, import_name

PARTS = ("train", "validation", "test")


def load_own(name: str) -> Dataset:
    """Call the function ``package.module:loader`` and check its data.

    Args:
        name: name of the function. It takes no argument and returns a tuple of the training part, the validation
            part and, if there is one, the test part. Each is a ``torch.utils.data.Dataset`` of (input, target)
            pairs, or a pair of tensors or arrays (inputs, targets).

    Returns:
        The data set. Its task is inferred from the targets, as described in docs/own_network.md.

    Raises:
        UserError: if the function is missing or fails, or its data are unsuitable for training.
    """
    loader = import_name(name)
    if not callable(loader):
        raise UserError(f"{name}: {type(loader).__name__} is not a function")
    try:
        found = loader()
    except (Exception, SystemExit) as error:
        raise UserError(f"{name}: {blame(error)}") from error
    if not isinstance(found, tuple | list) or len(found) not in (2, 3):
        raise UserError(
            f"{name} returned {_described(found)}: return a tuple (train, validation) or (train, validation, test)"
        )
    pairs = [_pair(f"{name}: {part}", value) for part, value in zip(PARTS, found, strict=False)]
    _check_alike(name, pairs)
    inputs, targets = pairs[0]
    task = _task(name, inputs, targets)
    if bool((targets == targets[:1]).all()) and task != NEXT_TOKEN:
        raise UserError(f"{name}: all train targets are the same, {targets[0].tolist()}: there is nothing to learn")
    if task == REGRESSION:
        outputs = targets.shape[1]
    else:
        _check_labels(name, pairs)
        tokens = [part for pair in pairs for part in pair] if task == NEXT_TOKEN else [y for _, y in pairs]
        outputs = max(int(part.max()) for part in tokens) + 1
    mean, std = 0.0, 1.0
    if inputs.dtype == torch.uint8:
        mean, std = inputs.float().mean().item(), max(inputs.float().std().item(), 1.0)
    parts = [Samples(x, y, mean, std) for x, y in pairs]
    return Dataset(name, task, parts[0], parts[1], parts[2] if len(parts) == 3 else None, outputs)


def _pair(where: str, part: Any) -> tuple[Tensor, Tensor]:
    """Inputs and targets of a part, ready for a network and a loss."""
    if isinstance(part, TensorDataset):
        part = part.tensors
    if isinstance(part, TorchDataset):
        part = _read_through(where, part)
    if not isinstance(part, tuple | list) or len(part) != 2:
        raise UserError(f"{where} is {_described(part)}: give a Dataset of (input, target) pairs, or two tensors")
    inputs, targets = (
        _tensor(f"{where} {what}", value) for what, value in zip(("inputs", "targets"), part, strict=True)
    )
    if len(inputs) != len(targets):
        raise UserError(f"{where} has {len(inputs)} inputs but {len(targets)} targets")
    if len(inputs) < 2:
        raise UserError(f"{where} has {len(inputs)} samples: give at least 2")
    if inputs.ndim < 2:
        raise UserError(f"{where} inputs have shape {tuple(inputs.shape)}: give (samples, features...)")
    if targets.is_floating_point() and targets.ndim == 1:
        targets = targets[:, None]
    if not targets.is_floating_point():
        targets = targets.long()
    return inputs if inputs.is_floating_point() or inputs.dtype == torch.uint8 else inputs.long(), targets


def _read_through(where: str, dataset: TorchDataset[Any]) -> tuple[Tensor, Tensor]:
    """Read every sample of a Dataset once."""
    if not hasattr(dataset, "__len__"):
        raise UserError(f"{where} is an iterable {type(dataset).__name__}: give one with a length")
    try:
        samples = [dataset[index] for index in range(len(dataset))]
        inputs, targets = zip(*samples, strict=True)
        return tuple(torch.stack([torch.as_tensor(value) for value in column]) for column in (inputs, targets))  # type: ignore[return-value]
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
            row = (
                int((~found.isfinite()).flatten(1).any(1).nonzero()[0])
                if found.ndim > 1
                else int((~found.isfinite()).nonzero()[0])
            )
            raise UserError(f"{where} hold NaN or infinite values, first in sample {row}: remove or fill them")
    return found.to(torch.uint8) if found.dtype == torch.bool else found


def _check_alike(name: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
    for part, pair in zip(PARTS, pairs, strict=False):
        for what, value, first in zip(("inputs", "targets"), pair, pairs[0], strict=True):
            if (value.shape[1:], value.dtype) != (first.shape[1:], first.dtype):
                raise UserError(
                    f"{name}: {part} {what} are {_described(value)}, those of train {_described(first)}: "
                    "give all parts one shape and type"
                )


def _task(name: str, inputs: Tensor, targets: Tensor) -> str:
    if targets.is_floating_point():
        if targets.ndim == 2:
            return REGRESSION
    elif targets.ndim == 1:
        return CLASSIFICATION
    elif inputs.dtype == torch.int64 and targets.shape == inputs.shape and targets.ndim == 2:
        return NEXT_TOKEN
    raise UserError(
        f"{name}: targets are {_described(targets)} beside inputs {_described(inputs)}: give int64 classes (n,), "
        "floats (n,) or (n, k), or int64 tokens (n, positions) for both"
    )


def _check_labels(name: str, pairs: list[tuple[Tensor, Tensor]]) -> None:
    for part, (_, targets) in zip(PARTS, pairs, strict=False):
        if targets.min() < 0:
            raise UserError(f"{name}: {part} targets hold {int(targets.min())}: count classes from 0")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"{str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {len(value)}"
    return f"a {type(value).__name__}"
