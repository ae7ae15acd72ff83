"""Choose the rows of the layers and the target for an estimate: samples, or positions in them.

The only place that knows kinds of targets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from mireg.estimators.base import as_matrices
from mireg.estimators.target import IGNORED, countable

POOLED = 64
"""Maps and sequences are average-pooled until channels times positions is close to this number."""

POSITIONS = 4
"""Positions that count as one sample: neighbours in a sequence or a map are strongly dependent."""

FEW_OUTPUTS = 4
"""Networks with no more outputs than this are not classifiers of more classes than that."""

LARGEST = 1e17
"""Values beyond it, such as fill values, are missing: the sum of their squares overflows in float32."""

POOLS: tuple[Callable[[Tensor, Any], Tensor], ...] = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
"""Pooling functions by number of position dimensions, from 1."""

Kind = Literal["classes", "values", "classes per position", "values per position"]
"""Kinds of targets."""


@dataclass(frozen=True)
class Rows:
    """The rows of an estimate.

    Attributes:
        layers: a matrix (rows, d_l) for each layer.
        target: (rows,) classes or (rows, k) values; None without a target.
        kind: the kind of target; None without one.
    """

    layers: list[Tensor]
    target: Tensor | None = None
    kind: Kind | None = None

    @property
    def per_position(self) -> bool:
        """Whether the rows are positions."""
        return self.kind is not None and self.kind.endswith("position")

    def counted(self, fewest: int) -> Tensor | None:
        """Share (0-dim) of the rows with a target that count, see :func:`countable`.

        0 if fewer than so many do, or all have the same target. None without a target.
        """
        if self.target is None:
            return None
        counted = countable(self.target)
        known = counted if self.target.is_floating_point() else self.target != IGNORED
        share = counted.sum() / known.sum().clamp_min(1)
        one = self.target.index_select(0, counted.to(torch.uint8).argmax()[None])  # the first that counts
        other = (self.target != one).view(len(counted), -1).any(1) & counted
        return torch.where((counted.sum() >= fewest) & other.any(), share, 0.0)


def choose_rows(
    layers: Sequence[Tensor],
    target: Tensor | None,
    samples: int,
    step: int,
    *,
    used: Sequence[int] | None = None,
    outputs: torch.Size | None = None,
    ignore_index: int = IGNORED,
    samples_second: bool = False,
) -> Rows:
    """Choose the rows of layers and target that an estimate uses.

    If the batch has more samples than wanted, they are spread evenly over it, those that have a target first. For a
    target with a class or values per position the rows are positions, :data:`POSITIONS` times as many. The choice
    differs from step to step.

    Args:
        layers: L tensors (n, channels, positions ...).
        target: (n,) or (n, positions ...) integer classes, or (n, ...) values; None for no target. Classes of all
            positions may also be flattened as for the loss, (n * positions,). Values belong to positions if every
            layer has these positions: (n, channels, positions ...) for maps, (n, positions) or (n, positions, k) for
            sequences.
        samples: maximum number of samples.
        step: the training step, which varies the choice.
        used: indices of the layers to return rows of, by default all.
        outputs: shape of the network's output, which says whether integers are values (:func:`output_for`), or None.
        ignore_index: class of the rows to skip; integers that are values are missing there.
        samples_second: whether the network's output is (positions, n, ...), and so what is flattened for the loss.

    Raises:
        TypeError: if the target is not a tensor, or complex.
        ValueError: if the target does not fit the layers' rows, or its integers may be values.
    """
    n, device = len(layers[0]), layers[0].device
    read = layers if used is None else [layers[index] for index in used]
    if target is None:
        chosen = None if n <= samples else _labelled(torch.ones(n, dtype=torch.bool, device=device), samples, step)
        return Rows(_pooled(read, chosen))
    target = _checked(target, device, ignore_index)
    places = math.prod(layers[-1].shape[2:])
    if target.ndim == 1 and len(target) != n and not target.is_floating_point() and len(target) == n * places:
        target = target.view(places, n).T if samples_second else target.view(n, places)
    if target.ndim == 0 or len(target) != n:
        raise ValueError(_unfit(target, layers))
    kind = _kind(target, layers, outputs, look=step == 0 or device.type == "cpu")
    if kind == "classes":
        target = target.flatten()
        chosen = _labelled(target != IGNORED, samples, step) if n > samples else None
        return Rows(_pooled(read, chosen), target if chosen is None else target[chosen], kind)
    if kind != "classes per position":
        target = _as_values(target, layers[-1].dtype)
    if kind == "values":
        finite = target.isfinite().flatten(1).any(1) if target.ndim > 1 else target.isfinite()
        chosen = _labelled(finite, samples, step) if n > samples else None
        rows = pool(target if chosen is None else target[chosen])
        return Rows(_pooled(read, chosen), as_matrices([rows])[0], kind)
    if kind == "classes per position":
        wanted, shape = target != IGNORED, target.shape[1:]
    else:
        target = _dense(target, layers)
        assert target is not None
        wanted, shape = target.isfinite().any(1), target.shape[2:]
    chosen = _labelled(wanted.flatten(), POSITIONS * samples, step)
    size = math.prod(shape)
    sample, place = chosen // size, chosen % size
    matrices = as_matrices([_at(layer, sample, place, shape) for layer in read])
    if kind == "classes per position":
        return Rows(matrices, target.flatten(1)[sample, place], kind)
    return Rows(matrices, target.flatten(2)[sample, :, place], kind)


def _checked(target: object, device: torch.device, ignore_index: int) -> Tensor:
    """A target as a dense tensor on a device, its integers as int64 with :data:`IGNORED` for those to skip."""
    if not isinstance(target, Tensor):
        raise TypeError(
            f"the target is a {type(target).__name__}: give the tensor of classes or values in it, or "
            "torch.as_tensor(target); without a target, call mi_loss()"
        )
    target = target.detach().to(device)
    if target.is_sparse:
        target = target.to_dense()
    if target.is_complex():
        raise TypeError("the target is complex: give its real and imaginary parts, torch.view_as_real(target)")
    if not target.is_floating_point():
        target = target.long()  # what has the value -100 in a byte is a class
        target = target if ignore_index == IGNORED else target.masked_fill(target == ignore_index, IGNORED)
    return target


def output_for(shapes: Sequence[torch.Size], target: Tensor | None) -> torch.Size | None:
    """The shape of the output that says whether a target's integers are values, of those of all outputs.

    Of several, it is one of the target's own shape, if none has classes for each of these numbers; None if neither.
    """
    if len(shapes) == 1:
        return shapes[0]
    if not isinstance(target, Tensor) or target.ndim < 2 or target.numel() == len(target):
        return None
    has_classes = any(target.shape in (shape[:-1], shape[:1] + shape[2:]) for shape in shapes)
    return target.shape if target.shape in shapes and not has_classes else None


def _as_values(target: Tensor, dtype: torch.dtype) -> Tensor:
    """Values as floats, at least of single precision if they were integers; NaN where they are missing."""
    if target.is_floating_point():
        missing = target.abs() > LARGEST
    else:
        missing, target = target == IGNORED, target.to(torch.promote_types(dtype, torch.float32))
    return target.masked_fill(missing, torch.nan)


def _kind(target: Tensor, layers: Sequence[Tensor], outputs: torch.Size | None, *, look: bool) -> Kind:
    """The kind of a target (n, ...); ``look`` allows to look at its values, for which the host waits."""
    n = len(target)
    if target.is_floating_point():
        return "values" if _dense(target, layers) is None else "values per position"
    single = target.numel() == n
    if outputs is not None and outputs[:1] == (n,):
        width = math.prod(outputs[1:])
        if single and width == 1:
            return "values"  # a single output can't tell classes apart; of two classes, the code is the same
        if not single and target.shape == outputs:  # one output for each number: several labels, or ratings
            is_map = target.ndim > 2 and _dense(target, layers) is not None
            return "values per position" if is_map else "values"
        if look and single and len(outputs) == 2 and width <= FEW_OUTPUTS and int(target.max()) >= width:
            raise ValueError(
                f"the target has integers up to {int(target.max())} and the network {width} outputs: are they values? "
                "Then give mi_loss(target.float()). Classes of an embedding: give their one-hot codes as floats"
            )
    if single:
        return "classes"
    if all(layer.ndim == 2 for layer in layers):
        return "values"  # no layer has positions: several labels for each sample
    return "classes per position"


def _unfit(target: Tensor, layers: Sequence[Tensor]) -> str:
    n, last = len(layers[0]), tuple(layers[-1].shape)
    text = f"the target has shape {tuple(target.shape)} and the last layer {last}: "
    if target.ndim > 1 and target.shape[1] == n:
        return f"{text}its samples are in the second dimension: give target.transpose(0, 1)"
    if target.ndim == 1 and 1 < len(target) < n:
        return (
            f"{text}a target for each of {len(target)}, and not for each of the {n} rows. Repeat it for the rows that "
            "it belongs to, such as target[batch] for the nodes of graphs or target.repeat(2) for two views, or name "
            "layers= after the pooling"
        )
    return (
        f"{text}give one class or row of values for each of the {n} samples, or a class for each position, "
        "(samples, positions ...)"
    )


def _dense(target: Tensor, layers: Sequence[Tensor]) -> Tensor | None:
    """Values as (n, channels, positions ...) if they belong to positions that every layer has; else None.

    The layers must have as many positions as the target, except for maps, whose channels are known to be second.
    """
    places = layers[-1].shape[2:]
    if not places or any(layer.ndim != layers[-1].ndim for layer in layers):
        return None
    alike = all(layer.shape[2:] == places for layer in layers)
    if target.ndim == layers[-1].ndim and (len(places) > 1 or (alike and target.shape[2:] == places)):
        return target
    if alike and target.shape[1 : 1 + len(places)] == places and target.ndim <= layers[-1].ndim:
        return target[:, None] if target.ndim < layers[-1].ndim else target.movedim(-1, 1)
    return None


def _pooled(layers: Sequence[Tensor], chosen: Tensor | None) -> list[Tensor]:
    """Matrices of the chosen samples of each layer."""
    return as_matrices([pool(layer if chosen is None else layer[chosen]) for layer in layers])


def pool(layer: Tensor) -> Tensor:
    """Average-pool maps and sequences (n, channels, positions ...).

    Pooling keeps the content of a map and drops the exact position: on whole maps an estimate from n rows saturates.
    """
    places = layer.shape[2:]
    if 1 <= len(places) <= len(POOLS):
        side = max(1, round((POOLED / layer.shape[1]) ** (1 / len(places))))
        layer = POOLS[len(places) - 1](layer, [min(side, size) for size in places])
    return layer


def _labelled(wanted: Tensor, count: int, step: int) -> Tensor:
    """Indices spread evenly over those that are wanted (n,), others at each step.

    If fewer than ``count`` are wanted, these come first, then others: the number of rows must not depend on values,
    which would wait for the device.
    """
    rank, rest = wanted.cumsum(0), wanted.logical_not().cumsum(0)  # from 1
    found = rank[-1]
    turn = torch.arange(min(count, len(rank)), device=wanted.device)
    spread = turn * found // count + step % (found // count).clamp_min(1)
    index = torch.where(found > count, spread, turn)
    return torch.where(index < found, torch.searchsorted(rank, index + 1), torch.searchsorted(rest, index - found + 1))


def _at(layer: Tensor, sample: Tensor, place: Tensor, shape: torch.Size) -> Tensor:
    """Features (rows, channels) of a layer at flat positions of a target of that shape; the nearest if sizes differ."""
    if layer.ndim == 2:
        return layer[sample]
    own = layer.shape[2:]
    if len(own) == len(shape):
        flat = torch.zeros_like(place)
        left = place
        inner = 1
        for size, wanted in zip(reversed(own), reversed(shape), strict=True):
            flat = flat + (left % wanted) * size // wanted * inner
            left, inner = left // wanted, inner * size
    else:
        flat = place * math.prod(own) // math.prod(shape)
    return layer.flatten(2)[sample, :, flat]
