"""The MI between successive layers of a network, without training it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from mireg import estimators
from mireg.estimators import Estimator
from mireg.layers import LayerSpec
from mireg.regularizer import pairs, prepare
from mireg.taps import Taps
from mireg.wrapper import MIRegularized

NARROW = 3
"""Most units per layer at which nearest neighbours are the recommended estimate."""


def recommend(*layers: Tensor) -> str:
    """Name of the estimator whose number on these layers deserves the most trust.

    Nearest neighbours (``ksg``) where no layer has more than 3 units: they assume no distribution.
    Beyond that no sample shows more than the linear part, which ``gaussian`` estimates without bias.
    Which is why, is in the truth table (``python -m eval.truth``).

    Args:
        layers: samples (n, d_l).

    >>> recommend(torch.zeros(64, 1), torch.zeros(64, 2)), recommend(torch.zeros(64, 128), torch.zeros(64, 2))
    ('ksg', 'gaussian')
    """
    return "ksg" if max(layer[0].numel() for layer in layers) <= NARROW else "gaussian"


@dataclass(frozen=True)
class PairRecord:
    """The estimate for one successive pair of layers.

    Attributes:
        pair: ``"layer_a→layer_b"``.
        nats: mean estimate over the batches.
        ceiling: the largest value that the estimator can return on that many samples.
        normalised: ``nats / ceiling``.
    """

    pair: str
    nats: float
    ceiling: float

    @property
    def normalised(self) -> float:
        return self.nats / self.ceiling


@dataclass(frozen=True)
class Measurement:
    """What :func:`measure` found: a sequence of :class:`PairRecord`, printable as a table."""

    estimator: str
    samples: int
    records: tuple[PairRecord, ...]

    def __iter__(self) -> Iterator[PairRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PairRecord:
        return self.records[index]

    def __str__(self) -> str:
        width = max(len("pair"), *(len(record.pair) for record in self.records))
        lines = [f"{'pair':<{width}}  {'nats':>7}  {'ceiling':>7}  {'share':>6}"]
        for r in self.records:
            lines.append(f"{r.pair:<{width}}  {r.nats:7.3f}  {r.ceiling:7.3f}  {r.normalised:6.1%}")
        return "\n".join([f"{self.estimator}, {self.samples} samples a batch", *lines])


def measure(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    layers: LayerSpec = "auto",
    estimator: str | Estimator = "kde",
    max_batches: int | None = None,
) -> Measurement:
    """Estimate the MI between successive layers over the batches of a loader.

    The network runs in evaluation mode, without gradients, and is left in the mode it was in.

    Args:
        module: a network, wrapped or not; of a wrapped one, its own layers are measured.
        loader: batches: a tensor, or a tuple or list whose first item is the input.
        layers: see :func:`mireg.wrap`.
        estimator: name or instance, differentiable or not.
        max_batches: stop after this many.

    Raises:
        ValueError: if the loader is empty.
    """
    if isinstance(module, MIRegularized):
        module = module.module
    if isinstance(estimator, str):
        estimator = estimators.get(estimator)
    taps = Taps(module, layers)
    training = module.training
    module.eval()
    totals: dict[str, float] = {}
    batches = samples = 0
    try:
        with torch.no_grad():
            for batch in loader:
                if batches == max_batches:
                    break
                inputs = batch[0] if isinstance(batch, tuple | list) else batch
                caught = taps.run(inputs)[1]
                rows = [prepare(layer, len(layer)) for layer in caught.values()]
                for pair, nats in zip(pairs(caught), estimator.successive(rows).tolist(), strict=True):
                    totals[pair] = totals.get(pair, 0.0) + nats
                batches += 1
                samples = max(samples, len(rows[0]))
    finally:
        taps.remove()
        module.train(training)
    if not batches:
        raise ValueError("the loader gave no batch: nothing to measure")
    ceiling = estimator.ceiling(samples)
    records = tuple(PairRecord(pair, total / batches, ceiling) for pair, total in totals.items())
    return Measurement(estimator.name, samples, records)
