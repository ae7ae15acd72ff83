"""Choose the rows of the layers and the target for an estimate: samples, or positions in them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from mireg.estimators.base import as_matrices
from mireg.estimators.target import IGNORED

POOLED = 64
"""Maps and sequences are average-pooled until channels times positions is close to this number."""

POSITIONS = 4
"""Positions that count as one sample: neighbours in a sequence or a map are strongly dependent."""

POOLS: tuple[Callable[[Tensor, Any], Tensor], ...] = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
"""Pooling functions by number of position dimensions, from 1."""


def choose_rows(
    layers: Sequence[Tensor],
    target: Tensor | None,
    samples: int,
    step: int,
    used: Sequence[int] | None = None,
) -> tuple[list[Tensor], Tensor | None]:
    """Choose the rows of layers and target that an estimate uses.

    Batches are shuffled, so the first samples are used: a leading slice is a view. For a target with a class or values
    per position the rows are positions instead, :data:`POSITIONS` times as many, evenly spaced among those that have a
    target, and different at each step.

    Args:
        layers: L tensors (n, channels, positions ...).
        target: (n,) or (n, positions ...) integer classes, or (n, ...) values; None for no target. Classes of all
            positions may also be flattened, (n * positions,). Values belong to positions if every layer has these
            positions: (n, channels, positions ...) for maps, (n, positions) or (n, positions, k) for sequences.
        samples: maximum number of samples.
        step: the training step, which varies the positions.
        used: indices of the layers to return rows of, by default all.

    Returns:
        A matrix (rows, d_l) for each used layer, and a target of (rows,) classes or (rows, k) values.

    Raises:
        ValueError: if the target does not fit the layers' rows.
    """
    n = len(layers[0])
    chosen = [layers[index] for index in used] if used is not None else layers
    if target is None:
        return as_matrices([pool(layer, samples) for layer in chosen]), None
    target = target.detach().to(layers[0].device)
    if target.dtype == torch.bool:
        target = target.long()
    if target.ndim == 1 and len(target) != n and not target.is_floating_point():
        places = math.prod(layers[-1].shape[2:])
        if places > 1 and len(target) == n * places:
            target = rearrange(target, "(n places) -> n places", n=n)
    if target.ndim == 0 or len(target) != n or target.is_complex():
        raise ValueError(
            f"the target has shape {tuple(target.shape)} and the last layer {tuple(layers[-1].shape)}: give one class "
            f"or row of values for each of the {n} samples, or a class for each position, (samples, positions ...)"
        )
    dense = _dense(target, layers) if target.is_floating_point() else None
    if dense is not None:
        everywhere = torch.ones_like(dense[:, 0], dtype=torch.bool)
        sample, place = _positions(everywhere, POSITIONS * samples, step)
        rows = [_at(layer, sample, place, dense.shape[2:]) for layer in chosen]
        return as_matrices(rows), dense.flatten(2)[sample, :, place]
    if target.is_floating_point():
        return as_matrices([pool(layer, samples) for layer in chosen]), as_matrices([pool(target, samples)])[0]
    if not has_positions(target, n):
        return as_matrices([pool(layer, samples) for layer in chosen]), target.flatten()[:samples]
    sample, place = _positions(target != IGNORED, POSITIONS * samples, step)
    rows = [_at(layer, sample, place, target.shape[1:]) for layer in chosen]
    return as_matrices(rows), target.flatten(1)[sample, place]


def has_positions(target: Tensor, samples: int) -> bool:
    """Whether a target has a class per position, as for tokens and pixels, not one per sample."""
    return not target.is_floating_point() and target.numel() > samples


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


def pool(layer: Tensor, samples: int) -> Tensor:
    """Take the first samples of a layer (n, channels, positions ...) and average-pool maps and sequences.

    Pooling keeps the content of a map and drops the exact position: on whole maps an estimate from n rows saturates.
    """
    rows = layer[:samples]
    places = rows.shape[2:]
    if 1 <= len(places) <= len(POOLS):
        side = max(1, round((POOLED / rows.shape[1]) ** (1 / len(places))))
        rows = POOLS[len(places) - 1](rows, [min(side, size) for size in places])
    return rows


def _positions(wanted: Tensor, count: int, step: int) -> tuple[Tensor, Tensor]:
    """Choose samples and flat positions (rows,), evenly spaced among those that are wanted.

    Args:
        wanted: (n, positions ...), whether a position has a target. If fewer than ``count`` have one, these come
            first, then others: the number of rows must not depend on values, which would wait for the device.
        count: maximum number of positions.
        step: the training step, which varies the choice.
    """
    rank, rest = wanted.flatten().cumsum(0), wanted.logical_not().flatten().cumsum(0)  # from 1
    found = rank[-1]
    turn = torch.arange(min(count, len(rank)), device=wanted.device)
    spread = turn * found // count + step % (found // count).clamp_min(1)
    index = torch.where(found > count, spread, turn)
    kept = torch.where(index < found, torch.searchsorted(rank, index + 1), torch.searchsorted(rest, index - found + 1))
    places = wanted[0].numel()
    return kept // places, kept % places


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
