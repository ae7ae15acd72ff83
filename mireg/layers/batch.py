"""Where the samples of the batch are in each tensor, followed through the operations of a forward pass.

An operation keeps the batch in one dimension, moves it, merges it with others (two views or all variables in one
batch), splits it off again, or removes it. What it does follows from its name and its shapes; the size of a dimension
alone proves nothing, since a batch is often as large as a layer is wide.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from mireg.layers.values import tensors_in

UNKNOWN = -1
"""Dimension of a batch that an operation without a rule has moved somewhere."""

Shape = tuple[int, ...]


class Batch(NamedTuple):
    """The batch in a tensor: a factor of one dimension, whose size is ``outer * size * inner``, row-major.

    Attributes:
        dim: the dimension.
        size: number of samples.
        outer: size of what was merged with the batch as a slower index, such as two views that were concatenated.
        inner: size of what was merged with it as a faster index, such as variables of a time series.
    """

    dim: int
    size: int
    outer: int = 1
    inner: int = 1

    def at(self, dim: int) -> Batch:
        """The same batch in another dimension."""
        return self._replace(dim=dim)

    def resized(self, rows: int) -> Batch | None:
        """The batch after its dimension was cut to this size: fewer of the views, or else fewer samples."""
        if rows % (self.size * self.inner) == 0:
            return self._replace(outer=rows // (self.size * self.inner))
        if self.outer == 1 and rows % self.inner == 0:
            return self._replace(size=rows // self.inner)
        return None


class Operation:
    """One call of an operator, with its arguments by name."""

    def __init__(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        schema = getattr(func, "_schema", None)
        self.name: str = "" if schema is None else schema.name.split("::")[-1].rstrip("_")
        parameters = [] if schema is None else schema.arguments
        names = [parameter.name for parameter in parameters] or [str(index) for index in range(len(args))]
        defaults = {parameter.name: parameter.default_value for parameter in parameters}
        self.arguments: dict[str, Any] = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        # Read before the operation runs: one in place may change them.
        self.operands = [(name, tensor) for name, value in self.arguments.items() for tensor in tensors_in(value)]
        self._shapes = {id(tensor): _shape(tensor) for _, tensor in self.operands}

    def shape(self, tensor: Tensor) -> Shape:
        """The shape of an operand before the operation."""
        return self._shapes[id(tensor)]

    def adds_rows(self, argument: str) -> bool:
        """Whether it adds rows of this argument to rows that an index names, as the messages to a node of a graph."""
        return argument in ("source", "src") and self.name.startswith(("index_", "scatter"))

    def follow(self, argument: str, operand: Tensor, batch: Batch, result: Tensor) -> Batch | None:
        """Find the batch of an operand in a result.

        Args:
            argument: the name of the argument that holds the operand.
            operand: a tensor with a batch.
            batch: its batch.
            result: one of the operation's results.

        Returns:
            The batch in the result; None if the operation removed it.
        """
        before, after = self.shape(operand), _shape(result)
        if not after and not result.is_nested:
            return None
        if batch.dim == UNKNOWN or not before or not after:
            return _guess(batch, after)
        match self.name:
            case "view" | "_unsafe_view" | "reshape" | "_reshape_alias" | "flatten" | "unflatten":
                return _reshaped(batch, before, after)
            case "permute":
                return batch.at([dim % len(before) for dim in self.arguments["dims"]].index(batch.dim))
            case "transpose":
                one, two = self._dims("dim0", "dim1", ndim=len(before))
                return batch.at({one: two, two: one}.get(batch.dim, batch.dim))
            case "t":
                return batch.at(len(before) - 1 - batch.dim)
            case "unsqueeze" | "stack":
                (dim,) = self._dims("dim", ndim=len(after))
                return batch.at(batch.dim + (dim <= batch.dim))
            case "squeeze":
                gone = self._dims("dim", ndim=len(before)) or range(len(before))
                return _without(batch, [dim for dim in gone if before[dim] == 1])
            case "select" | "unbind":
                return _without(batch, self._dims("dim", ndim=len(before)))
            case "slice" | "split" | "split_with_sizes" | "index_select":
                step = self.arguments.get("step", 1) if batch.dim in self._dims("dim", ndim=len(before)) else 1
                if batch.inner % step == 0:
                    batch = batch._replace(inner=batch.inner // step)
                return batch.resized(after[batch.dim])
            case "cat":
                return self._concatenated(batch, before, after)
            case "repeat":
                dim = batch.dim + len(after) - len(before)
                return batch.at(dim).resized(after[dim])
            case "index":
                return self._indexed(argument, batch, before, after)
            case "unfold":
                return None if batch.dim in self._dims("dimension", ndim=len(before)) else batch
            case "embedding" if argument == "indices":
                return batch
            case "view_as_real" | "view_as_complex":
                return batch
            case "mm" | "bmm" | "matmul" | "_sparse_mm" | "mv" | "dot":
                return self._product(batch, before, after, is_left=argument in ("self", "sparse"))
            case "addmm" | "baddbmm" | "addmv" | "_sparse_addmm" if argument != "self":
                return self._product(batch, before, after, is_left=argument in ("mat1", "batch1", "mat", "sparse"))
            case "linear" if argument == "input":
                return None if batch.dim == len(before) - 1 else batch
            case "convolution":
                return self._convolved(argument, batch, after)
            case "_pack_padded_sequence":
                return Batch(UNKNOWN, batch.size)
        if "keepdim" in self.arguments:
            gone = self._dims("dim", ndim=len(before)) or range(len(before))
            return None if batch.dim in gone else batch if self.arguments["keepdim"] else _without(batch, gone)
        # Everything else acts element by element, with broadcasting, or keeps the number of dimensions.
        aligned = batch.dim + len(after) - len(before)
        ndim = max(map(len, self._shapes.values()))
        if aligned >= 0 and after[aligned] == before[batch.dim] and (len(after) <= ndim or self.name == "expand"):
            return batch.at(aligned)
        return _guess(batch, after)

    def _dims(self, *names: str, ndim: int) -> list[int]:
        """The dimensions that these arguments name, counted from the front."""
        given = [self.arguments.get(name) for name in names]
        dims = [dim for each in given for dim in (each if isinstance(each, list | tuple) else [each])]
        return [dim % ndim for dim in dims if dim is not None]

    def _concatenated(self, batch: Batch, before: Shape, after: Shape) -> Batch | None:
        """Parts of equal size are views of the samples; others are more samples."""
        (dim,) = self._dims("dim", ndim=len(after))
        if dim != batch.dim:
            return batch
        if len({self.shape(tensor)[dim] for _, tensor in self.operands if self.shape(tensor) != (0,)}) == 1:
            return batch.resized(after[dim])
        return Batch(dim, after[dim]) if after[dim] else None

    def _indexed(self, argument: str, batch: Batch, before: Shape, after: Shape) -> Batch | None:
        """The dimensions that are indexed side by side become those of the indices, or one dimension for a mask."""
        indices = [(place, index) for place, index in enumerate(self.arguments["indices"]) if index is not None]
        (first, one), last, indexed = indices[0], indices[-1][0], len(indices)
        is_mask = one.dtype in (torch.bool, torch.uint8)
        if is_mask and indexed == 1:
            last, indexed = first + one.ndim - 1, one.ndim
        elif is_mask or last - first >= indexed:
            return _guess(batch, after)
        ndim = len(after) - len(self.shape(self.arguments["self"])) + indexed  # of the indices together
        if argument == "indices":
            return None if is_mask else batch.at(first + ndim - len(before) + batch.dim)
        if batch.dim < first:
            return batch
        if batch.dim > last:
            return batch.at(batch.dim + ndim - indexed)
        if is_mask and indexed > 1:
            return None
        return batch.at(first).resized(after[first]) if ndim == 1 else _guess(batch, after)

    def _product(self, batch: Batch, before: Shape, after: Shape, *, is_left: bool) -> Batch | None:
        """The last dimension of the left factor and the last but one of the right factor are summed over."""
        summed = len(before) - 1 if is_left or len(before) == 1 else len(before) - 2
        if batch.dim != summed:
            return batch.at(batch.dim + len(after) - len(before) + (is_left and len(after) < len(before)))
        operands = dict(self.operands)  # what is added is called self, too
        factors = (operands.get(name) for name in ("mat1", "batch1", "mat", "sparse", "self"))
        left = next(self.shape(factor) for factor in factors if factor is not None)
        # A square matrix from the left, such as the edges of a graph, mixes the rows and keeps them.
        return batch if not is_left and len(left) > 1 and left[-2] == left[-1] else None

    def _convolved(self, argument: str, batch: Batch, after: Shape) -> Batch | None:
        """Samples may be groups of channels, each convolved with weights of its own."""
        if argument == "input" and batch.dim == 0:
            return batch
        in_groups = argument in ("input", "weight") and batch.dim == int(argument == "input") and batch.outer == 1
        if in_groups and self.arguments["groups"] % batch.size == 0:
            return Batch(1, batch.size, inner=after[1] // batch.size)
        return None


def through_memory(batch: Batch, source: Tensor, result: Tensor) -> Batch:
    """Find the batch of one view of some memory in another view: the dimension with the same stride."""
    shape = _shape(result)
    stride = 0 if batch.dim == UNKNOWN else source.stride(batch.dim) * batch.inner
    for dim, size in enumerate(shape):
        if stride and size > 1 and result.stride(dim) == stride:
            return Batch(dim, batch.size).resized(size) or _guess(batch, shape)
    return _guess(batch, shape)


def _shape(tensor: Tensor) -> Shape:
    """The shape of a tensor; none of a nested tensor, or of the parameter of a lazy module before its first pass."""
    return () if tensor.is_nested or is_lazy(tensor) else tuple(tensor.shape)


def _reshaped(batch: Batch, before: Shape, after: Shape) -> Batch | None:
    """Find the batch after a reshape by its stride in row-major order."""
    stride = math.prod(before[batch.dim + 1 :]) * batch.inner
    split = None
    for dim in _nearest(batch.dim, after):
        step = math.prod(after[dim + 1 :])
        inner = stride // step if step else 0
        if inner and stride % step == 0 and after[dim] % (inner * batch.size) == 0:
            return Batch(dim, batch.size, after[dim] // (inner * batch.size), inner)
        if step and step > stride and step * after[dim] == stride * batch.size:
            split = Batch(dim, after[dim])  # groups of samples are the new samples
    return split


def _nearest(dim: int, shape: Shape) -> Iterator[int]:
    """The dimensions of a shape, the given one first: a batch of one sample fits several."""
    if dim < len(shape):
        yield dim
    yield from (other for other in range(len(shape)) if other != dim)


def _without(batch: Batch, gone: list[int] | range) -> Batch | None:
    return None if batch.dim in gone else batch.at(batch.dim - sum(dim < batch.dim for dim in gone))


def _guess(batch: Batch, shape: Shape) -> Batch:
    """The batch by its size alone: in the same dimension, or in one of the first two; columns are never samples."""
    for dim in (batch.dim, 0, 1 if len(shape) > 2 else 0):
        if 0 <= dim < len(shape) and shape[dim] == batch.size:
            return Batch(dim, batch.size)
    return Batch(UNKNOWN, batch.size)
