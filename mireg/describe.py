"""What the term would see of a network, and what it would cost, before any training."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from statistics import median
from typing import Any

import torch
from torch import nn

from mireg.estimators.base import as_matrices
from mireg.layers import tensors_in
from mireg.regularizer import pairs
from mireg.rows import pool
from mireg.wrapper import MIRegularized, wrap

REPEATS = 5
"""Times that a duration is taken; the median counts."""


@dataclass(frozen=True)
class Description:
    """The successive layers of a network and the cost of the term, printable as a table.

    Attributes:
        shapes: of each layer's output on the example, (samples, channels, positions ...).
        units: of each layer, that the estimate uses after pooling.
        estimator: its name.
        samples: rows that the estimate uses.
        dead: pairs that pass on almost nothing of the example (:func:`mireg.triage.dead_pairs`).
        step_ms: forward and backward pass of the network on the example.
        term_ms: what the term adds to that at a step, its gradient with respect to the layers included.
    """

    shapes: dict[str, tuple[int, ...]]
    units: dict[str, int]
    estimator: str
    samples: int
    dead: list[str]
    step_ms: float
    term_ms: float

    @property
    def pairs(self) -> list[str]:
        """Names of the successive pairs."""
        return pairs(self.shapes)

    @property
    def needed(self) -> bool:
        """Whether the network needs the term, by the example; where not, the default weight leaves it alone."""
        return len(self.dead) > ENOUGH * len(self.pairs)

    def __str__(self) -> str:
        rows = [("pair", "outputs", "units used")]
        for pair, (a, b) in zip(self.pairs, pairwise(self.shapes), strict=True):
            outputs = f"{_size(self.shapes[a])} → {_size(self.shapes[b])}"
            rows.append((pair, outputs, f"{self.units[a]}, {self.units[b]}"))
        widths = [max(len(row[column]) for row in rows) for column in range(3)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        verdict = "the network needs the term" if self.needed else "the term stands aside, unless given a weight"
        lines.append(f"{len(self.dead)} of {len(self.pairs)} pairs pass on less than {DEAD:.0%} of log n: {verdict}")
        share = self.term_ms / self.step_ms
        lines.append(
            f"{self.estimator} on {self.samples} samples: {self.term_ms:.1f} ms beside {self.step_ms:.1f} ms for "
            f"forward and backward ({share:.0%}) at a step that uses the term"
        )
        return "\n".join(lines)


def describe(model: nn.Module, example: Any) -> Description:
    """Print the successive pairs of a network, their shapes, whether it needs the term, and what that would cost.

    A copy of the network runs, in training mode; the network itself, its buffers and the random numbers
    stay as they are.

    Args:
        model: a network, or a wrapped one, to see what its own layers and estimator give.
        example: a batch as the network takes it: a tensor, a tuple of positional arguments, or a dict of
            keyword arguments.

    Returns:
        What was printed.

    Raises:
        ValueError: as for the first forward pass of a wrapped network.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    >>> description = describe(net, torch.randn(16, 4))  # doctest: +ELLIPSIS
    pair     outputs  units used
    input→1  4 → 8    4, 8
    1→2      8 → 6    8, 6
    0 of 2 pairs pass on less than 5% of log n: the term stands aside, unless given a weight
    kde on 16 samples: ... ms beside ... ms for forward and backward (...%) at a step that uses the term
    """
    args, kwargs = (), {}
    if isinstance(example, Mapping):
        kwargs = dict(example)
    else:
        args = example if isinstance(example, tuple) else (example,)
    copied = copy.deepcopy(model)
    twin = copied if isinstance(copied, MIRegularized) else wrap(copied)
    twin.train()
    regularizer = twin.regularizer
    with torch.random.fork_rng(), torch.enable_grad():
        layers = twin.taps.run(*args, **kwargs)[1]
        chosen = as_matrices([prepare(layer, regularizer.samples) for layer in layers.values()])

        def step() -> None:
            outputs = [t for t in tensors_in(twin.module(*args, **kwargs)) if t.requires_grad]
            torch.autograd.backward([t.sum() for t in outputs])

        def term() -> None:
            rows = [layer.detach().requires_grad_() for layer in layers.values()]
            used = as_matrices([prepare(layer, regularizer.samples) for layer in rows])
            regularizer.estimator.estimate(used).mean().backward()

        device = chosen[0].device
        dead = [pair for pair, is_dead in zip(pairs(layers), dead_pairs(chosen).tolist(), strict=True) if is_dead]
        description = Description(
            shapes={name: tuple(layer.shape) for name, layer in layers.items()},
            units={name: rows.shape[1] for name, rows in zip(layers, chosen, strict=True)},
            estimator=regularizer.estimator.name,
            samples=len(chosen[0]),
            dead=dead,
            step_ms=_milliseconds(step, device),
            term_ms=_milliseconds(term, device),
        )
    print(description)
    return description


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:])) or "1"


def _milliseconds(run: Callable[[], None], device: torch.device) -> float:
    times = []
    for _ in range(REPEATS + 1):  # the first one warms up
        began = time.perf_counter()
        run()
        if device.type != "cpu":
            torch.accelerator.synchronize()
        times.append(time.perf_counter() - began)
    return 1000 * median(times[1:])
