"""Trains a loop bare and with the one line added, and compares the task's loss after training."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg

STEPS, LONG = 260, 420
"""Steps of a training, and of one of a network that needs them to come back from the term; 20 at the end are bare."""

TOLERANCE = 1.03
"""Factor above the bare loss that still counts as no worse."""


@dataclass
class Run:
    """What differs between the two versions of a loop: everything else in it is the user's own.

    Attributes:
        seed: of this run, already set.
        wrapped: whether networks are wrapped.
        off: whether they are wrapped at weight 0.
        models: the wrapped networks, in order.
        verdicts: of each at its first term, by its place in ``models``.
    """

    seed: int
    wrapped: bool
    off: bool = False
    models: list[mireg.MIRegularized] = field(default_factory=list)
    verdicts: dict[int, str] = field(default_factory=dict)

    def wrap(self, module: nn.Module, **options: Any) -> Any:
        if not self.wrapped:
            return module
        options = {"weight": 0.0} if self.off else {"steps": STEPS - 20} | options
        self.models.append(mireg.wrap(module, **options))
        return self.models[-1]

    def mi_loss(self, model: Any, target: Tensor | None = None) -> Tensor | float:
        """The term, checked; 0 of a bare network."""
        if not self.wrapped:
            return 0.0
        term: Tensor = model.mi_loss(target)
        assert not (self.off and term)
        assert term.ndim == 0
        assert term.isfinite()
        assert all(value.isfinite() for value in model.mi_terms().values())
        place = next(place for place, each in enumerate(self.models) if each is model)
        self.verdicts.setdefault(place, model.verdict)
        return term


Loop = Callable[[Run], float]
"""A training loop: gives the task's loss after training, or a score."""


@dataclass(frozen=True)
class Outcome:
    """Losses of both versions, seed by seed, and the last wrapped run."""

    bare: list[float]
    mi: list[float]
    run: Run

    @property
    def layers(self) -> list[str]:
        """Names of the successive layers of the first wrapped network."""
        return list(self.run.models[0].taps.chain)

    @property
    def verdict(self) -> str:
        """Of the first wrapped network, at its first term."""
        return self.run.verdicts[0]

    def is_active(self, *layers: str) -> None:
        """Assert that the term acts in the first wrapped network, on these layers if any are given."""
        assert self.verdict.startswith("active"), self.verdict
        if layers:
            assert self.layers == list(layers), self.layers

    def is_no_worse(self, solved: float = 0.0, tolerance: float = TOLERANCE) -> None:
        """Assert that the loss is not above the bare one; losses below ``solved`` are all alike."""
        allowed = max(tolerance * median(self.bare), solved)
        assert median(self.mi) <= allowed, f"{median(self.mi):.4g} against {median(self.bare):.4g} bare"


def compare(loop: Loop, seeds: int = 3, *, off: bool = False) -> Outcome:
    """Run a loop over seeds, bare and wrapped, from the same random state.

    With ``off``, it is also run wrapped at weight 0, which must give the very same loss.
    """
    losses: dict[bool, list[float]] = {False: [], True: []}
    for seed in range(seeds):
        if off:
            torch.manual_seed(seed)
            at_zero = float(loop(Run(seed, wrapped=True, off=True)))
        for wrapped in (False, True):
            torch.manual_seed(seed)
            run = Run(seed, wrapped)
            losses[wrapped].append(float(loop(run)))
            if off and not wrapped:
                assert losses[False][-1] == at_zero
            for model in run.models:
                assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert all(math.isfinite(loss) for values in losses.values() for loss in values), losses
    return Outcome(losses[False], losses[True], run)


def digits() -> tuple[Tensor, Tensor]:
    """scikit-learn's digits: (1797, 1, 8, 8) images from 0 to 1, and their classes."""
    images, labels = load_digits(return_X_y=True)
    return torch.as_tensor(images, dtype=torch.float32).reshape(-1, 1, 8, 8) / 16, torch.as_tensor(labels)


def pick(*tensors: Tensor, rows: int = 64) -> list[Tensor]:
    """A random batch."""
    index = torch.randint(len(tensors[0]), (rows,))
    return [tensor[index] for tensor in tensors]


def descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    """One step down the gradient of a loss."""
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def fit(
    run: Run, net: nn.Module, samples: Callable[[int], tuple[Tensor, ...]], loss: Any, *, steps: int, lr: float
) -> float:
    """Train on batches of inputs and a target; the loss on many of them."""
    model = run.wrap(net, steps=steps - 20)
    optimizer = torch.optim.Adam(model.parameters(), lr=lr)
    for _ in range(steps):
        *inputs, y = samples(64)
        descend(optimizer, loss(model(*inputs), y) + run.mi_loss(model, y))
    *inputs, y = samples(2048)
    return float(loss(model(*inputs), y).item())


def classify(
    run: Run,
    net: nn.Module,
    *,
    steps: int = STEPS,
    lr: float = 1e-3,
    momentum: float | None = None,
    after: Callable[[Any], None] | None = None,
) -> float:
    """The usual loop on digits, by Adam or, with a momentum, SGD; the loss at the end is of ``net`` without dropout."""
    images, labels = digits()
    model = run.wrap(net, steps=steps - 20)
    trained = [p for p in model.parameters() if p.requires_grad]
    optimizer: torch.optim.Optimizer = torch.optim.Adam(trained, lr=lr)
    if momentum is not None:
        optimizer = torch.optim.SGD(trained, lr=lr, momentum=momentum)
    for _ in range(steps):
        x, y = pick(images, labels)
        descend(optimizer, cross_entropy(model(x), y) + run.mi_loss(model, y))
        if after is not None:
            after(model)
    model.eval()
    return cross_entropy(model(images), labels).item()
