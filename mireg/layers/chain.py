"""The chain of successive layers in an observed forward pass.

Successive layers are points that all of the input's information passes through: T1, T2, ... form a Markov chain, so
that the MI between neighbours is meaningful. In a feed-forward stack that is every layer; in a residual network it is
the sum after each block, since the skip connection bypasses everything inside it. A layer extends from one weight to
the next: its activation, normalisation and pooling belong to it, whether they are modules or functions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from torch import Tensor, nn

from mireg.layers.graph import between, cut_points, dominators, layers, weighted_steps
from mireg.layers.layout import BatchPlace, Layout
from mireg.layers.observe import Call, Observer, Point, Side, Sighting
from mireg.layers.select import INPUT, has_forward
from mireg.layers.values import floats_in

OUTPUT = "output"
"""Name of what the network itself puts out, where no module inside it does."""


@dataclass(frozen=True)
class Layer:
    """A layer of a chain.

    Attributes:
        point: where it is caught.
        layout: where its samples and channels are.
        overwritten: whether the network goes on to change it in place, so that it must be copied.
    """

    point: Point
    layout: Layout
    overwritten: bool


@dataclass(frozen=True)
class Chain:
    """The successive layers of a network, as one pass showed them.

    Attributes:
        layers: by name, in execution order; none where there is no chain.
        reason: why there is none, else empty.
        watched: the modules whose calls tell whether a later pass runs the same layers: those that the layers are
            caught at, the output head, and those that did not run.
        calls: of what is watched, in order.
    """

    layers: dict[str, Layer]
    reason: str
    watched: frozenset[tuple[str, Side]]
    calls: tuple[Call, ...]

    def fits(self, calls: Iterable[Call]) -> bool:
        """Whether a pass with those calls ran the same layers."""
        return tuple(call for call in calls if (call.module, call.side) in self.watched) == self.calls


Found = dict[str, tuple[Layer, Tensor]]
"""Layers by name, with what they held in the observed pass."""


def chosen(observer: Observer, module: nn.Module, result: object) -> tuple[Chain, dict[str, Tensor]]:
    """The chain that ``layers="auto"`` means, of at least two layers, or of none.

    It extends from the main input to the result with the most layers before it, whatever joins on the way, such as an
    embedded time step. The output head is left out.

    Args:
        observer: of the pass.
        module: the network.
        result: what it returned.

    Returns:
        The chain, and what its layers held in the pass.
    """
    start, found, reason = _longest(observer, result)
    if not found:
        return _chain(observer, module, {}, [], reason), {}
    options = _Options(observer, start, found)
    sizes = [tensor for tensor in (*_ends(result), observer.starts[start]) if tensor.ndim > 0]
    place = _place(observer, options.tensors(), sizes)
    laid: Found = {}
    taken = observer.taken_by_network(start)
    if taken is not None and observer.starts[start].is_floating_point():
        laid |= _lay_out(observer, place, INPUT, taken)
    for key, caught in options.choose(place):
        laid |= _lay_out(observer, place, key if key not in laid else f"{key} (module)", caught)
    head = [sighting for node in found[-1] for sighting in observer.put_out.get(node, []) if sighting.module]
    if len(laid) < 2:
        reason = _why(observer, start, found, options, laid)
        laid = {}
    return _chain(observer, module, laid, head[:1], reason), {key: tensor for key, (_, tensor) in laid.items()}


def named(
    observer: Observer, module: nn.Module, names: Sequence[str], result: object, *, strict: bool
) -> tuple[Chain, dict[str, Tensor]]:
    """The chain of the requested modules: the output of each, each time it runs.

    Args:
        observer: of the pass.
        module: the network.
        names: of the modules; ``"input"`` adds the first floating-point input.
        result: what the network returned.
        strict: whether each of them must have run.

    Raises:
        ValueError: if one of them did not run, or has no dimension that can be the batch.
    """
    ran = {call.module for call in observer.calls}
    idle = [name for name in names if name != INPUT and name not in ran]
    if strict and idle:
        raise ValueError(
            f"layers {', '.join(idle)} did not run in the forward pass: leave them out of layers=, or run the "
            "wrapped network instead of a part of it"
        )
    sightings = [sighting for sighting in observer.outputs if sighting.module in names]
    sizes = [tensor for tensor in (*_ends(result), *observer.starts) if tensor.ndim > 0]
    place = _place(observer, [[tensor] for sighting in sightings for tensor in sighting.tensors], sizes)
    laid: Found = {}
    taken = observer.taken_by_network(0)
    if INPUT in names and taken is not None:
        laid |= _lay_out(observer, place, INPUT, taken)
    for sighting in sightings:
        key = _key(sighting)
        added = _lay_out(observer, place, key, sighting)
        if not added and sighting.tensors:
            raise ValueError(
                f"layer {key!r} puts out {tuple(sighting.tensors[0].shape)}, where neither of the first two dimensions "
                "is the batch: the rows of a layer must be samples; choose another layer"
            )
        laid |= added
    return _chain(observer, module, laid, [], ""), {key: tensor for key, (_, tensor) in laid.items()}


def _ends(result: object) -> list[Tensor]:
    """What may end the chain: the results that are not scalars, as a loss is; scalars if there is nothing else."""
    floats = floats_in(result)
    return [tensor for tensor in floats if tensor.ndim > 0] or floats


def _longest(observer: Observer, result: object) -> tuple[int, list[list[int]], str]:
    """Where the chain starts, its cut points by layer, the output head last, or why there are none.

    Of the results, the chain takes the one with the most layers before it, and of equals the last. Of the
    inputs, it takes the one whose layers have the most elements: an image, not the time step that conditions it.
    """
    ends = [node for tensor in _ends(result) if (node := observer.node(tensor)) is not None]
    starts = range(len(observer.starts))
    # A mask of padding reaches every layer, and would leave no cut point; but it may be all that is read of an input.
    above = [dominators(observer.reads_but_masks, start) for start in starts]
    if any(end in reached for reached in above for end in ends):
        observer.reads = observer.reads_but_masks
    else:
        above = [dominators(observer.reads, start) for start in starts]
    if not starts:
        return 0, [], "the forward pass takes no tensor"
    if not floats_in(result):
        return 0, [], "the forward pass returns no floating-point tensor"
    if not any(end in reached for reached in above for end in ends):
        return 0, [], "the forward pass returns no tensor that depends on its input"

    def towards(start: int) -> list[list[int]]:
        weighted = weighted_steps(observer.reads, observer.weights, above[start])
        candidates = [(layers(cut_points(above[start], end), weighted), end) for end in ends]
        return max(candidates, key=lambda candidate: (len(candidate[0]), candidate[1]))[0]

    def elements(found: list[list[int]]) -> tuple[int, int]:
        return sum(observer.sizes[layer[-1]] for layer in found[:-1]), len(found)

    chains = [towards(start) for start in starts]
    start = max(starts, key=lambda start: elements(chains[start]))
    return start, chains[start], "" if chains[start] else "no weight matrix stands between the input and the result"


class _Options:
    """The ways to catch each layer of a chain but the output head, the last value of the layer first.

    A layer's value is caught where a module puts it out, or else where one takes it. Its name is that of the last
    module that puts out something in it.
    """

    def __init__(self, observer: Observer, start: int, found: list[list[int]]) -> None:
        self._times = Counter(call.module for call in observer.calls if call.side == "output")
        before = start
        self._ways: list[list[tuple[Sighting | None, list[Sighting]]]] = []  # by layer: where it is taken, its names
        for place, nodes in enumerate(found):
            self._ways.append([way for node in reversed(nodes) for way in _ways(observer, before, node)])
            if place == len(found) - 1:  # the output head, unless it is a stack of recurrent layers
                stacked = [named for _, named in self._ways.pop()[:1] if any(len(each.tensors) > 1 for each in named)]
                self._ways += [[(None, [each.without_last() for each in named])] for named in stacked]
            before = nodes[-1]

    def __bool__(self) -> bool:
        return any(self._ways)

    def tensors(self) -> list[list[Tensor]]:
        """By layer, every tensor that may stand for it."""
        return [
            [tensor for taken, named in ways for each in ([taken] if taken else named) for tensor in each.tensors]
            for ways in self._ways
        ]

    def choose(self, place: BatchPlace) -> list[tuple[str, Sighting]]:
        """Names of the layers that have samples, and where each is caught."""
        chosen = []
        for ways in self._ways:
            others = {
                run.module for other in self._ways if other is not ways for _, named in other[:1] for run in named
            }
            for taken, named in ways:
                name = self._name(named, others) if named else None
                caught = taken or name
                if caught is not None and all(t.ndim > 1 and place.of(t) is not None for t in caught.tensors):
                    chosen.append((_key(name) if name else f"{caught.module} (input)", caught))
                    break
        return chosen

    def _name(self, runs: list[Sighting], others: set[str]) -> Sighting:
        """Of the modules that put out a node, the outermost that holds no other layer."""
        once = [run for run in runs if self._times[run.module] == 1] or runs
        # What merely hands a tensor on later, such as an identity, is no name for it.
        holders = [run for run in once if run is once[0] or once[0].module.startswith(f"{run.module}.")]
        alone = [run for run in holders if not any(other.startswith(f"{run.module}.") for other in others)]
        return alone[-1] if alone else once[0]


def _namers(ways: list[tuple[Sighting | None, list[Sighting]]]) -> list[Sighting]:
    return ways[0][1] if ways else []


def _ways(observer: Observer, before: int, node: int) -> list[tuple[Sighting | None, list[Sighting]]]:
    """Where a cut point can be caught: where a module takes it, if none puts it out; and what may name it."""
    put_out = [sighting for sighting in observer.put_out.get(node, []) if sighting.differentiable]
    if put_out:
        return [(None, put_out)]
    taken = [sighting for sighting in observer.taken.get(node, []) if sighting.differentiable]
    if not taken:
        return []
    within = [each for each in between(observer.reads, before, node) if each in observer.put_out]
    named = observer.put_out[within[-1]] if within else []
    # What follows a stack of recurrent layers is not all of them.
    return [(None, named)] if any(each.is_stack for each in named) else [(taken[0], named)]


def _key(sighting: Sighting) -> str:
    """The name of a module's call: ``name``, then ``name#2``, ..."""
    name, number = sighting.module or OUTPUT, sighting.points[0].call.number
    return name if number == 1 else f"{name}#{number}"


def _place(observer: Observer, tensors: list[list[Tensor]], sizes: list[Tensor]) -> BatchPlace:
    """Where the batch is, ``sizes`` being tensors whose first dimension it may be."""
    candidates = [*observer.batch_sizes, *(tensor.shape[0] for tensor in sizes)]
    return BatchPlace.agreed([*tensors, sizes[-1:]], candidates, is_second=bool(observer.batch_sizes))


def _lay_out(observer: Observer, place: BatchPlace, key: str, sighting: Sighting) -> Found:
    """The layers of one sighting, by name; none if they have no batch."""
    found: Found = {}
    for index, (point, tensor) in enumerate(zip(sighting.points, sighting.tensors, strict=True)):
        batch = place.of(tensor)
        if batch is None:
            return {}
        name = f"{key}[{index}]" if sighting.is_stack else key
        layout = Layout(batch, _channels(observer, tensor, batch))
        found[name] = Layer(point, layout, sighting.overwritten), tensor
    return found


def _channels(observer: Observer, tensor: Tensor, batch: int) -> int:
    """The dimension of the channels: as the operations told, else second in maps and last in sequences."""
    usual = 1 if tensor.ndim != 3 else 2
    node = observer.node(tensor)
    told = usual if node is None else observer.channels.get(node, usual) % max(tensor.ndim, 1)
    return told if told != batch else usual


def _chain(observer: Observer, module: nn.Module, laid: Found, head: list[Sighting], reason: str) -> Chain:
    """The chain of those layers, and what to watch so that a pass that runs others is noticed."""
    ran = {call.module for call in observer.calls}
    children = {name: child for name, child in module.named_modules() if name not in ran}
    idle = [name for name, child in children.items() if has_forward(child) and any(True for _ in child.parameters())]
    layers = {key: layer for key, (layer, _) in laid.items()}
    calls = [layer.point.call for layer in layers.values()] + [sighting.points[0].call for sighting in head]
    put_out: list[tuple[str, Side]] = [(name, "output") for name in idle]
    watched = frozenset([(call.module, call.side) for call in calls] + put_out)
    seen = tuple(call for call in observer.calls if (call.module, call.side) in watched)
    return Chain(layers, reason, watched, seen)


def _why(observer: Observer, start: int, found: list[list[int]], options: _Options, laid: Found) -> str:
    """Why a network whose input reaches its result through weights has fewer than two layers."""
    shape = tuple(observer.starts[start].shape)
    if not options:
        inside = between(observer.reads, start, found[-1][-1])
        if len(found) > 1:
            return "no module takes or puts out, with a gradient, what a hidden layer holds"
        if sum(observer.weights[node] for node in inside) == 1:
            return "there is a single layer with weights, and no hidden one before it"
        return "a path runs round every inner module"
    if len(shape) < 2 and observer.starts[start].is_floating_point():
        return f"the input, of shape {shape}, is a single sample and no batch"
    if laid and INPUT not in laid:
        return f"there is only one layer, {next(iter(laid))!r}: the MI between successive layers needs two"
    return f"no hidden layer has the samples of the input, of shape {shape}, in one of its first two dimensions"
