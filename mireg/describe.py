"""Show the layers that the term would reward in a network, and its cost, before training."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from statistics import mean, median
from typing import Any

import torch
from torch import Tensor, nn

from mireg.batches import inputs_of
from mireg.layers import tensors_in
from mireg.timing import active_steps, step_times
from mireg.wrapper import MIRegularized, wrap

ROUNDS, SECONDS = 7, 1.0
"""Timed steps with and without the term, in turns: at least so many of each, and for at least this time. The medians
are reported."""

MOMENTS = 4
"""Moments of the schedule at which the term is timed."""

CLASSES = 10
"""Largest number of classes of the made-up target."""


@dataclass(frozen=True)
class Description:
    """The successive layers of a network and the cost of the term, printable as a table.

    Attributes:
        shapes: shape of each layer's output on the example, (samples, channels, positions ...).
        information: estimates by name, in nats (for a dependence: without a unit).
        estimator: the estimator's name.
        verdict: whether the term would be active, on which layers, and why (:attr:`mireg.MIRegularized.verdict`).
        step_ms: milliseconds for a training step on the example: forward, backward and an update by Adam.
        term_ms: milliseconds that the term adds to a step that uses it, its part of the backward pass included,
            averaged over its schedule.
    """

    shapes: dict[str, tuple[int, ...]]
    information: dict[str, float]
    estimator: str
    verdict: str
    step_ms: float
    term_ms: float

    def __str__(self) -> str:
        lines = []
        if self.shapes:
            rows = [("layer", "output"), *((name, _size(shape)) for name, shape in self.shapes.items())]
            width = max(len(name) for name, _ in rows)
            lines = [f"{name.ljust(width)}  {output}" for name, output in rows]
        lines.append(self.verdict)
        if self.information:
            share = self.term_ms / self.step_ms
            lines.append(
                f"a step that uses the term takes {self.term_ms:.1f} ms more than the {self.step_ms:.1f} ms "
                f"of a step with Adam without it ({share:.0%})"
            )
        return "\n".join(lines)


def describe(model: nn.Module, example: Any, target: Tensor | None = None) -> Description:
    """Print the successive layers of a network, whether the term would be active on them, and its cost.

    A copy of the network is run in training mode; the network itself, its buffers and the random state do not change.

    Args:
        model: a network, or a wrapped network, whose own layers and estimator are then used.
        example: an input batch of the network: a tensor, a tuple of positional arguments, or a dict of keyword
            arguments, of which those that it does not take are left out.
        target: as for :meth:`mireg.MIRegularized.mi_loss`; without it, made-up classes are used.

    Returns:
        The printed description.

    Raises:
        ValueError: as for the first forward pass of a wrapped network.

    >>> net = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 6), torch.nn.Linear(6, 2))
    >>> description = describe(net, torch.randn(16, 4))  # doctest: +ELLIPSIS
    layer  output
    input  4
    1      8
    2      6
    active: rewards information about the target and the input in 3 layers from 'input' to '2' (usable)
    a step that uses the term takes ... ms more than the ... ms of a step with Adam without it (...%)
    """
    copied = copy.deepcopy(model)
    twin = copied if isinstance(copied, MIRegularized) else wrap(copied)
    args: tuple[Any, ...] = example if isinstance(example, tuple) else (example,)
    kwargs: dict[str, Any] = {}
    if isinstance(example, Mapping):
        args, kwargs = inputs_of(twin._network, example)
    twin.train()
    made_up = target is None
    with torch.random.fork_rng(), torch.enable_grad():
        outputs, layers = twin.taps.run(*args, **kwargs)
        if target is None and layers:
            size = len(next(iter(layers.values())))
            target = torch.arange(size, device=next(iter(layers.values())).device)
            widths = [tensor.shape[-1] for tensor in tensors_in(outputs) if tensor.ndim]  # not a loss
            target = target % max(2, min([CLASSES, *widths[:1]]))

        trained = [parameter for parameter in twin.parameters() if parameter.requires_grad]

        def step(at: int | None) -> None:
            used = at is not None
            twin.zero_grad()
            if at is not None:
                twin.regularizer.start_at(at)
            outputs = (twin if used else twin._network)(*args, **kwargs)
            total = torch.stack([t.float().sum() for t in tensors_in(outputs) if t.requires_grad]).sum()
            (total + twin.mi_loss(target) if used else total).backward()
            for parameter in trained:
                if parameter.grad is not None and parameter.grad.is_sparse:  # which Adam does not take
                    parameter.grad = None
            optimizer.step()

        bare_ms = added_ms = 0.0
        if layers and trained:
            optimizer = torch.optim.Adam(trained, lr=0.0)  # takes as long as any other rate, and changes nothing
            device = next(iter(layers.values())).device
            moments = active_steps(twin.regularizer.weight, MOMENTS)
            steps = {"bare": partial(step, None), **{f"at {at}": partial(step, at) for at in moments}}
            times = step_times(steps, device, rounds=ROUNDS, seconds=SECONDS)
            bare_ms = median(times.pop("bare"))
            added_ms = max(0.0, mean(median(each) for each in times.values()) - bare_ms)
    if made_up:
        twin.regularizer.seen = None  # that no layer knows of it says nothing of the real one
    description = Description(
        shapes={name: tuple(layer.shape) for name, layer in layers.items()},
        information={name: nats.item() for name, nats in twin.mi_terms().items()},
        estimator=twin.regularizer.estimator.name,
        verdict=twin.verdict,
        step_ms=bare_ms,
        term_ms=added_ms,
    )
    print(description)
    return description


def _size(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape[1:])) or "1"
