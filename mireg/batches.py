"""Find a network's inputs and the target in the batches of a loader, whatever their form."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from numbers import Number
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

LOGGER = logging.getLogger(__name__)

NAMES = ("labels", "label", "targets", "target", "y", "classes", "class", "gt", "ground_truth", "masks", "mask")
"""Names of the target in a batch whose parts have names, most usual first."""

FindTarget = Callable[[Any], Tensor | None]
"""Returns the target of a batch, or None."""

Path = tuple[str | int, ...]
"""Keys, attributes or indices that lead to a part of a batch."""


class TargetOf:
    """Finds the target of each batch, and says at the first one where it is, or that there is none.

    Args:
        where: the key, attribute or index of the target in a batch, or a function of the batch; by default
            :func:`find_target`.

    Raises:
        KeyError: at a call, if a batch has no such key, attribute or index.

    >>> TargetOf("age")({"x": torch.zeros(2, 5), "age": torch.tensor([7, 9])})
    tensor([7, 9])
    """

    def __init__(self, where: str | int | FindTarget | None = None) -> None:
        self.where = where
        self._path: Path | None = None
        self._announced = False

    def __call__(self, batch: Any) -> Tensor | None:
        if callable(self.where):
            return self.where(batch)
        if self.where is not None:
            return target_at(batch, (self.where,))
        try:
            target = None if self._path is None else target_at(batch, self._path)
        except KeyError:  # batches that alternate
            target = None
        if target is not None:
            return target
        self._path = find_target(batch)
        if not self._announced:
            self._announced = True
            self._announce(batch)
        return target_of(batch)

    def _announce(self, batch: Any) -> None:
        if self._path is not None:
            LOGGER.info("mireg: the target is %s of the batch", "".join(f"[{step!r}]" for step in self._path))
        elif not isinstance(batch, Tensor):
            warnings.warn(
                f"no target found in a batch that is {form_of(batch)}: the term is label-free. Name the target by "
                "its key or index or by a function of the batch; a function that returns None is silent",
                stacklevel=3,
            )


def find_target(batch: Any) -> Path | None:
    """Find the target in a batch.

    It is the second of two items, or of three if the third is an index or a weight of each sample, or no numbers; or
    the part with one of the :data:`NAMES`, in a mapping, a dataclass, a named tuple or any other object; or such a part
    of the second item. It is a tensor, or an array or list of numbers.

    Returns:
        Where it is; None if there is none.

    >>> find_target((torch.zeros(3, 5), torch.tensor([0, 2, 1]), torch.arange(3)))
    (1,)
    >>> find_target({"image": torch.zeros(2, 5), "mask": torch.tensor([0, 1])})
    ('mask',)
    >>> find_target(torch.zeros(3, 5)) is None
    True
    """
    if _is_plain(batch):
        if len(batch) == 2 or (len(batch) == 3 and _is_beside(batch[2])):
            if _as_target(batch[1]) is not None:
                return (1,)
            inside = None if _is_plain(batch[1]) else find_target(batch[1])
            return None if inside is None else (1, *inside)
        return None
    if isinstance(batch, Tensor | np.ndarray | str | bytes | Number):
        return None
    for name in NAMES:
        if _as_target(batch.get(name) if isinstance(batch, Mapping) else getattr(batch, name, None)) is not None:
            return (name,)
    return None


def target_at(batch: Any, path: Path) -> Tensor | None:
    """The part of a batch at a path, as a tensor; None if it is no tensor, and no array or list of numbers.

    Raises:
        KeyError: if there is nothing at the path.
    """
    part = batch
    for step in path:
        try:
            part = part[step] if isinstance(part, Mapping) or isinstance(step, int) else getattr(part, step)
        except (LookupError, TypeError, AttributeError):
            raise KeyError(f"target {step!r} is not in a batch that is {form_of(batch)}") from None
    return _as_target(part)


def target_of(batch: Any) -> Tensor | None:
    """The target of a batch, where :func:`find_target` finds it; None if there is none."""
    path = find_target(batch)
    return None if path is None else target_at(batch, path)


def inputs_of(module: nn.Module, batch: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Find the arguments of a network in a batch.

    Args:
        module: the network.
        batch: a tensor; a mapping of keyword arguments, of which those that ``forward`` does not take are left out (if
            it takes none of them, it is given the mapping); or
            a tuple or list that begins with the arguments, as many as ``forward`` requires, or with a mapping of them
            or, if it requires several, a tuple or list.

    Returns:
        Positional and keyword arguments.

    >>> inputs_of(nn.Linear(4, 2), ("x", "y"))
    (('x',), {})
    """
    if _is_plain(batch) and not batch:
        raise ValueError(f"a batch is an empty {type(batch).__name__}: it must hold the network's inputs")
    takes = inspect.signature(module.forward).parameters.values()
    if isinstance(batch, Mapping):
        if any(p.kind is p.VAR_KEYWORD for p in takes):
            return (), dict(batch)
        taken = {p.name: batch[p.name] for p in takes if p.name in batch}
        return ((), taken) if taken else ((batch,), {})
    if not _is_plain(batch):
        return (batch,), {}
    if isinstance(batch[0], Mapping):
        return inputs_of(module, batch[0])
    required = sum(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in takes)
    if _is_plain(batch[0]) and required != 1:
        return tuple(batch[0]), {}
    return tuple(batch[: max(1, required)]), {}


def form_of(batch: Any) -> str:
    """Describe the form of a batch.

    >>> form_of({"image": 1, "segmentation": 2}), form_of([torch.zeros(2, 3), "name"])
    ("a dict with 'image', 'segmentation'", 'a list of Tensor (2, 3), str')
    """
    kind = f"a {type(batch).__name__}"
    if isinstance(batch, Mapping):
        return f"{kind} with {', '.join(map(repr, batch))}"
    if _is_plain(batch):
        return f"{kind} of {', '.join(_form(item) for item in batch)}"
    names = [field.name for field in fields(batch)] if is_dataclass(batch) else list(getattr(batch, "__dict__", {}))
    return f"{kind} with {', '.join(map(repr, names))}" if names else kind


def _form(item: Any) -> str:
    return f"Tensor {tuple(item.shape)}" if isinstance(item, Tensor) else type(item).__name__


def _is_plain(value: Any) -> bool:
    """Whether it is a tuple or list whose items have no names."""
    return isinstance(value, tuple | list) and not hasattr(value, "_fields")


def _is_beside(item: Any) -> bool:
    """Whether it is an index or a weight of each sample, or no numbers at all, and so neither input nor target."""
    tensor = _as_target(item)
    if tensor is None:
        return True
    return tensor.ndim == 1 and (tensor.is_floating_point() or len(tensor.unique()) == len(tensor))


def _as_target(value: Any) -> Tensor | None:
    """A tensor, or an array or list of numbers as one; None of anything else."""
    if isinstance(value, Tensor):
        return value
    if isinstance(value, Sequence) and value and all(isinstance(item, Number) for item in value):
        return torch.tensor(value)
    if isinstance(value, np.ndarray) and value.dtype.kind in "biuf":
        return torch.as_tensor(value)
    return None
