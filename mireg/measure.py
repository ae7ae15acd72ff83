"""Measure the MI between successive layers of a network, without training it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from mireg import estimators
from mireg.batches import FindTarget, form_of, inputs_of, target_at, target_of
from mireg.diagnostics import effective_parameters
from mireg.estimators import Estimator
from mireg.layers import INPUT, LayerSpec, Taps, tensors_in
from mireg.rows import choose_rows, output_for, pool
from mireg.wrapper import MIRegularized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NARROW = 3
"""Maximum number of units per layer for which the nearest-neighbour estimator is recommended."""


def recommend(*layers: Tensor) -> str:
    """Name of the most trustworthy estimator for these layers.

    Nearest neighbours (``ksg``) if no layer has more than 3 units: it assumes no distribution, only that values do
    not repeat. Otherwise ``gaussian``, which finds only linear dependence; no estimator here finds the rest between
    wide layers. It needs many more samples than units: with fewer than about ten times as many, it is well above 0
    for independent layers, as their null floor shows. The choice is based on the truth table
    (``python -m eval.truth``), whose tasks with more than 3 units per side are all normal.

    Args:
        layers: samples (n, d_l).

    >>> recommend(torch.zeros(64, 1), torch.zeros(64, 2)), recommend(torch.zeros(64, 128), torch.zeros(64, 2))
    ('ksg', 'gaussian')
    """
    return "ksg" if max(layer[0].numel() for layer in layers) <= NARROW else "gaussian"


@dataclass(frozen=True)
class PairRecord:
    """The estimate for one pair of successive layers.

    Attributes:
        pair: ``"layer_a→layer_b"``.
        nats: mean estimate over the batches.
        spread: standard deviation of the estimate over the batches; 0 for a single batch.
        ceiling: the largest value that the estimator can return for this number of samples.
        null_floor: mean estimate with the rows of each layer shuffled, where the true MI is 0.
        parameters: number of parameters between the two layers, in registration order.
    """

    pair: str
    nats: float
    ceiling: float
    spread: float = 0.0
    null_floor: float = 0.0
    parameters: int = 0

    @property
    def normalised(self) -> float:
        """The estimate as a fraction of the ceiling."""
        return self.nats / self.ceiling

    @property
    def effective_parameters(self) -> float:
        """``parameters * exp(-nats)``, after Hodas & Stinis (Frontiers in Psychology 9:1185, 2018).

        Use it to rank layers and networks measured in the same way: same estimator, same number of samples. Do not
        quote it as a count: the true MI of a deterministic network is unbounded or constant, and an estimate cannot
        exceed its ceiling.
        """
        return effective_parameters(self.parameters, self.nats)


@dataclass(frozen=True)
class LayerRecord:
    """A layer in the information plane: usable information, mean over the batches, in nats.

    Attributes:
        layer: the layer's name.
        about_target: usable information about the target.
        about_input: usable information about the network's first layer, in nats per dimension.
    """

    layer: str
    about_target: float
    about_input: float


@dataclass(frozen=True)
class Measurement:
    """Result of :func:`measure`: a sequence of :class:`PairRecord`, printable as a table.

    Attributes:
        estimator: the estimator's name.
        samples: rows of each batch.
        records: one per pair of successive layers.
        measures: ``"mutual information"``, ``"usable information"`` or ``"dependence"``.
        layers: the information plane, if a target was given.
    """

    estimator: str
    samples: int
    records: tuple[PairRecord, ...]
    measures: str = "mutual information"
    layers: tuple[LayerRecord, ...] = ()

    def __iter__(self) -> Iterator[PairRecord]:
        return iter(self.records)

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, index: int) -> PairRecord:
        return self.records[index]

    def __str__(self) -> str:
        width = max(len("pair"), *(len(record.pair) for record in self.records))
        heads = (
            f"{'nats':>7}  {'spread':>6}  {'floor':>7}  {'ceiling':>7}  {'share':>6}  {'weights':>9}  {'effective':>9}"
        )
        lines = [f"{self.estimator}, {self.samples} samples a batch", f"{'pair':<{width}}  {heads}"]
        for r in self.records:
            nats = f"{r.nats:7.3f}  {r.spread:6.3f}  {r.null_floor:7.3f}  {r.ceiling:7.3f}  {r.normalised:6.1%}"
            lines.append(f"{r.pair:<{width}}  {nats}  {r.parameters:9d}  {r.effective_parameters:9.3g}")
        if self.layers:
            width = max(len("layer"), *(len(record.layer) for record in self.layers))
            lines.append(f"{'layer':<{width}}  about target  about input")
            lines += [f"{r.layer:<{width}}  {r.about_target:12.3f}  {r.about_input:11.3f}" for r in self.layers]
        return "\n".join(lines)

    def figure(self) -> Figure:
        """Plot the information plane if a target was given, otherwise the estimates along the network."""
        return self._plane() if self.layers else self._profile()

    def _plane(self) -> Figure:
        """Plot layers as connected points: information about the input (x) and about the target (y).

        The input is left out: its information about itself lies far to the right of all layers.
        """
        from matplotlib.figure import Figure

        figure = Figure(figsize=(5.0, 4.0), layout="constrained")
        axes = figure.subplots()
        layers = [r for r in self.layers if r.layer != INPUT] or self.layers
        axes.plot([r.about_input for r in layers], [r.about_target for r in layers], marker="o")
        for r in layers:
            place = (r.about_input, r.about_target)
            axes.annotate(r.layer, place, xytext=(4, 4), textcoords="offset points", fontsize=8)
        axes.set_xlabel("information about the input (nats per dimension)")
        axes.set_ylabel("information about the target (nats)")
        axes.set_title(f"usable information, {self.samples} samples a batch", fontsize=10)
        return figure

    def _profile(self) -> Figure:
        """Plot the estimates along the network with their spread, the null floor and the ceiling."""
        from matplotlib.figure import Figure

        figure = Figure(figsize=(max(4.0, 0.5 * len(self) + 2), 3.5), layout="constrained")
        axes = figure.subplots()
        places = range(len(self))
        axes.errorbar(places, [r.nats for r in self], [r.spread for r in self], marker="o", capsize=3, label="estimate")
        axes.plot(places, [r.null_floor for r in self], linestyle=":", color="tab:grey", label="null floor")
        axes.plot(places, [r.ceiling for r in self], linestyle="--", color="tab:grey", label="ceiling")
        axes.set_xticks(places, [r.pair for r in self], rotation=45, ha="right")
        axes.set_ylabel(UNITS[self.measures])
        axes.set_title(f"{self.estimator}, {self.samples} samples a batch", fontsize=10)
        axes.legend()
        return figure


UNITS = {
    "mutual information": "mutual information (nats)",
    "usable information": "usable information (nats)",
    "dependence": "dependence",
}


class NoPairsError(ValueError):
    """Raised if a network has fewer than two layers to measure between."""


def measure(
    module: nn.Module,
    loader: Iterable[Any],
    *,
    layers: LayerSpec = "auto",
    estimator: str | Estimator = "kde",
    max_batches: int | None = None,
    permutations: int = 2,
    target: bool | str | int | FindTarget = False,
) -> Measurement:
    """Estimate the MI between successive layers over the batches of a loader.

    The network runs in evaluation mode, without gradients; its mode is restored afterwards. Batches that differ in size
    from the first are skipped, because estimates from different sample sizes cannot be averaged.

    Args:
        module: a network, wrapped or not. For a wrapped one, the layers of the bare network are selected again.
        loader: batches, from which the network's arguments are taken as :func:`mireg.batches.inputs_of` says: tensors,
            dicts of keyword arguments, ``(x, y)``, ``(a, b, y)``, ``((a, b), y)``.
        layers: see :func:`mireg.wrap`.
        estimator: name or instance, differentiable or not; ``"recommended"`` uses :func:`recommend`.
        max_batches: maximum number of batches.
        permutations: shuffles per batch for the null floor; 0 omits it.
        target: True to also measure the usable information (:class:`LayerRecord`) of each layer about the target and
            about the first layer, the input. The target is found where batches usually have it
            (:func:`mireg.batches.find_target`); else give its key or index, or a function of the batch.

    Returns:
        The means over the batches.

    Raises:
        NoPairsError: if there are fewer than two layers.
        TypeError: if the loader is a single tensor.
        ValueError: if the loader or a batch is empty, a learned estimator has not been fitted, or a requested target is
            missing.

    >>> _ = torch.manual_seed(0)
    >>> network = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    >>> x = torch.randn(256, 4)
    >>> found = measure(network, [(x, (x[:, 0] > 0).long())], target=True)
    >>> for record in found.layers:
    ...     print(f"{record.layer}: {record.about_target:.2f} of the target, {record.about_input:.2f} of the input")
    input: 0.51 of the target, 11.03 of the input
    1: 0.52 of the target, 1.86 of the input
    3: 0.54 of the target, 1.59 of the input
    """
    _check(loader, max_batches)
    module = module._network if isinstance(module, MIRegularized) else module
    names, samples, found, floors = list[str](), 0, list[Tensor](), list[Tensor]()
    planes = list[Tensor]()  # (2, L) each: about the target, about the input
    with _evaluated(module, layers) as taps, torch.no_grad():
        for batch in loader:
            if len(found) == max_batches:
                break
            args, kwargs = inputs_of(module, batch)
            result, caught = taps.run(*args, **kwargs)
            rows = [pool(layer) for layer in caught.values()]
            estimator = _ready(estimator, rows, layers)
            names, samples = names or list(caught), samples or len(rows[0])
            if len(rows[0]) != samples:
                continue
            found.append(estimator.successive(rows).double().cpu())
            if target is not False:
                planes.append(_plane(list(caught.values()), _target(batch, target), result).double().cpu())
            if permutations:
                floors.append(estimator.null_floor(*rows, permutations=permutations).double().cpu())
    if not found or isinstance(estimator, str):
        raise ValueError("the loader gave no batch: nothing to measure")
    nats = torch.stack(found)
    spread = nats.std(0, correction=min(1, len(found) - 1))
    floor = torch.stack(floors or [torch.zeros_like(found[0])]).mean(0)
    columns = zip(
        pairs(names), nats.mean(0).tolist(), spread.tolist(), floor.tolist(), _parameters(module, names), strict=True
    )
    records = (
        PairRecord(pair, mean, estimator.ceiling(samples), std, null, size) for pair, mean, std, null, size in columns
    )
    plane = [names, *torch.stack(planes).mean(0).tolist()] if planes else []
    layer_records = itertools.starmap(LayerRecord, zip(*plane, strict=True))
    return Measurement(estimator.name, samples, tuple(records), estimator.measures, tuple(layer_records))


def _check(loader: object, max_batches: int | None) -> None:
    if isinstance(loader, Tensor):
        raise TypeError("the loader is a Tensor: give the batches, such as [x] or [(x, y)]")
    if max_batches is not None and max_batches < 1:
        raise ValueError(f"max_batches={max_batches}: at least 1 batch is needed")


@contextmanager
def _evaluated(module: nn.Module, layers: LayerSpec) -> Iterator[Taps]:
    """A network's layers in evaluation mode; the mode of every part is as it was afterwards."""
    taps = Taps(module, layers)
    modes = [(part, part.training) for part in module.modules()]
    module.eval()
    try:
        yield taps
    finally:
        taps.remove()
        for part, training in modes:
            part.training = training


def _ready(estimator: str | Estimator, rows: Sequence[Tensor], layers: LayerSpec) -> Estimator:
    """The estimator of a name for these layers' rows, of which there are two; one that learns must have learned."""
    if len(rows) < 2:
        raise NoPairsError(f"layers={layers!r} finds {len(rows)} layers: measuring takes at least two")
    if isinstance(estimator, str):
        estimator = estimators.get(recommend(*rows) if estimator == "recommended" else estimator)
    if estimator.is_learned and not estimator.state_dict():
        raise ValueError(
            f"estimator {estimator.name!r} has learned nothing yet, and would read about 0: fit it on samples of the "
            "layers, or take another one"
        )
    return estimator


def pairs(layers: Iterable[str]) -> list[str]:
    """Names of the pairs of successive layers.

    >>> pairs(["input", "block1", "block2"])
    ['input→block1', 'block1→block2']
    """
    return [f"{a}→{b}" for a, b in itertools.pairwise(layers)]


def _target(batch: Any, where: str | int | bool | FindTarget) -> Tensor:
    """The target of a batch; True finds it."""
    find = where if callable(where) else target_of
    try:
        target = find(batch) if callable(where) or where is True else target_at(batch, (where,))
    except KeyError as error:
        raise ValueError(*error.args) from None
    if target is None:
        raise ValueError(
            f"target={where!r} finds no target in a batch that is {form_of(batch)}: give its key or index, or a "
            "function of the batch"
        )
    return target


def _plane(layers: list[Tensor], target: Tensor, result: object) -> Tensor:
    """Usable information (2, L) of each layer about the target and about the first layer."""
    outputs = output_for([tensor.shape for tensor in tensors_in(result)], target)
    rows = choose_rows(layers, target, len(layers[0]), 0, outputs=outputs)
    assert rows.target is not None
    about_target = estimators.get("usable").about(rows.layers, rows.target)
    about_input = estimators.get("usable", per_dimension=True).about(rows.layers, rows.layers[0])
    return torch.stack([about_target, about_input])


def _parameters(module: nn.Module, layers: list[str]) -> list[int]:
    """Number of parameters between each layer and the next, in registration order."""
    order = [name for name, _ in module.named_modules()]
    ends = [
        max((place for place, name in enumerate(order) if name == layer or name.startswith(f"{layer}.")), default=0)
        if layer != INPUT
        else 0
        for layer in (layer.partition("#")[0] for layer in layers)
    ]
    owners = [(order.index(name.rpartition(".")[0]), p.numel()) for name, p in module.named_parameters()]
    return [sum(size for owner, size in owners if start < owner <= end) for start, end in itertools.pairwise(ends)]
