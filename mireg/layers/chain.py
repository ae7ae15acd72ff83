"""The chain of successive layers in an observed forward pass.

Successive layers are points that all of the input's information passes through: T1, T2, ... form a Markov chain, so
that the MI between neighbours is meaningful. In a feed-forward stack that is every layer; in a residual network it is
the sum after each block, since the skip connection bypasses everything inside it. A layer extends from one weight to
the next: its activation, normalisation and pooling belong to it, whether they are modules or functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor, nn

from mireg.layers.batch import Batch
from mireg.layers.graph import between, cut_points, dominators, layers, meet, weighted_steps
from mireg.layers.layout import Layout
from mireg.layers.observe import LAST, Activation, Axis, Call, Observer, Point, Side
from mireg.layers.select import INPUT, has_forward
from mireg.layers.values import floats_in

OUTPUT = "output"
"""Name of the network's own output, if no module inside it returns that tensor."""

DEEPEST_HEAD = 3
"""Maximum number of layers of what counts as one of several heads, however short the others are."""


@dataclass(frozen=True)
class Layer:
    """A layer of a chain.

    Attributes:
        point: where it is captured.
        layout: its batch and channel dimensions.
        overwritten: whether the network later modifies it in place, so that it must be copied.
    """

    point: Point
    layout: Layout
    overwritten: bool


@dataclass(frozen=True)
class Chain:
    """The successive layers of a network, as found in one pass.

    Attributes:
        layers: the layers by name, in execution order; empty if there is no chain.
        reason: why there is no chain, else empty.
        watched: the modules whose calls show whether a later pass runs the same layers: those where layers are
            captured, the output head, and those that did not run.
        loops: those of them that run in a loop over time, where the layer is what the last
            call returns, or the rate of spikes over all calls.
        calls: the calls of the watched modules, in order; in a loop, only the last.
    """

    layers: dict[str, Layer]
    reason: str
    watched: frozenset[tuple[str, Side]]
    loops: frozenset[tuple[str, Side]]
    calls: tuple[Call, ...]

    def fits(self, calls: Iterable[Call]) -> bool:
        """Whether a pass with these calls ran the same layers."""
        return _seen(calls, self.watched, self.loops) == self.calls


def _seen(
    calls: Iterable[Call], watched: frozenset[tuple[str, Side]], loops: frozenset[tuple[str, Side]]
) -> tuple[Call, ...]:
    """The calls of the watched modules, in order; for those in loops, only the last one."""
    kept = [call for call in calls if (call.module, call.side) in watched]
    kept = [call._replace(number=LAST) if (call.module, call.side) in loops else call for call in kept]
    return tuple(reversed(dict.fromkeys(reversed(kept))))


Found = dict[str, tuple[Layer, Tensor]]
"""Layers by name, with their values in the observed pass."""


def chosen(observer: Observer, module: nn.Module, result: object) -> tuple[Chain, dict[str, Tensor]]:
    """Find the chain for ``layers="auto"``: at least two layers, or none.

    It extends from the main input to the result with the most layers before it. Other inputs, such as an embedded
    time step, may join on the way. The output head is left out. In a loop over time, where the state of the steps
    before would run round every layer, the layers are those of the last step.

    Args:
        observer: the observer of the pass.
        module: the network.
        result: the network's result.

    Returns:
        The chain, and the values of its layers in the pass.
    """
    start, found, reason = _longest(observer, result)
    is_loop = False
    for count in sorted({observer.times(name) for name in observer.weighted} - {0, 1}):
        reads, observer.reads = observer.reads, observer.without_earlier_calls(count)
        step = _longest(observer, result)
        if len(step[1]) > len(found):
            (start, found, reason), is_loop = step, True
        else:
            observer.reads = reads
    if not found:
        return _chain(observer, module, {}, [], reason), {}
    captures = _Captures(observer, start, found, is_loop=is_loop)
    ends = [tensor for tensor in _ends(result) if observer.node(tensor) == found[-1][-1]]
    axis = observer.batch_axis(start, found[-1][-1])
    samples = _Samples(observer, axis, captures.tensors(), ends)
    chain_layers: Found = {}
    network_input = observer.network_input(start)
    if network_input is not None and observer.starts[start].is_floating_point():
        chain_layers |= _with_layout(samples, INPUT, network_input)
    for key, activation in captures.choose(samples):
        unique = key if key not in chain_layers else f"{key} (module)"
        chain_layers |= _with_layout(samples, unique, activation)
    heads = [activation for node in found[-1] for activation in observer.returned.get(node, []) if activation.module]
    head = [captures.of_any_length(activation) for activation in heads]
    if len(chain_layers) < 2:
        reason = _reason_for_none(observer, start, found, captures, chain_layers)
        chain_layers = {}
    values = {key: tensor for key, (_, tensor) in chain_layers.items()}
    return _chain(observer, module, chain_layers, head[:1], reason), values


def named(
    observer: Observer, module: nn.Module, names: Sequence[str], result: object, *, strict: bool
) -> tuple[Chain, dict[str, Tensor]]:
    """Build the chain of the requested modules: the output of each, each time it runs.

    Args:
        observer: the observer of the pass.
        module: the network.
        names: the names of the modules; ``"input"`` adds the first floating-point input.
        result: the network's result.
        strict: whether every one of them must have run.

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
    activations = [activation for activation in observer.outputs if activation.module in names]
    samples = _samples_of_any(observer, [tensor for activation in activations for tensor in activation.tensors], result)
    chain_layers: Found = {}
    network_input = observer.network_input(0)
    if INPUT in names and network_input is not None:
        chain_layers |= _with_layout(samples, INPUT, network_input)
    for activation in activations:
        key = _key(activation)
        added = _with_layout(samples, key, activation)
        if not added and activation.tensors:
            raise ValueError(
                f"layer {key!r} returns {tuple(activation.tensors[0].shape)}, where no dimension is the batch: the "
                "rows of a layer must be samples; choose another layer"
            )
        chain_layers |= added
    return _chain(observer, module, chain_layers, [], ""), {key: tensor for key, (_, tensor) in chain_layers.items()}


def _ends(result: object) -> list[Tensor]:
    """The results where the chain may end: those that are not scalars (such as a loss), or scalars if all are."""
    floats = floats_in(result)
    return [tensor for tensor in floats if tensor.ndim > 0] or floats


def _longest(observer: Observer, result: object) -> tuple[int, list[list[int]], str]:
    """Find where the chain starts and its cut points by layer, the output head last, or why there are none.

    The chain ends at the result with the most layers before it; the last one wins ties. Where heads part, it ends
    before them. It starts at an input whose rows are those of the result, such as a query and not what it is compared
    with; of several, at the one whose layers have the most elements: an image, not the time step that conditions it.
    """
    ends = [node for tensor in _ends(result) if (node := observer.node(tensor)) is not None]
    starts = range(len(observer.starts))
    # A padding mask reaches every layer and would leave no cut point; but an input may be read only through its mask.
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
        found = {end: layers(cut_points(above[start], end), weighted) for end in ends}
        main = max(ends, key=lambda end: (len(found[end]), end))
        return _up_to_heads(observer, above[start], found, main)

    def rank(start: int) -> tuple[bool, int, int]:
        found = chains[start]
        has_rows = bool(found) and observer.has_rows_of(found[-1][-1], start)
        return has_rows, sum(observer.sizes[layer[-1]] for layer in found[:-1]), len(found)

    chains = [towards(start) for start in starts]
    start = max(starts, key=rank)
    return start, chains[start], "" if chains[start] else "no weight matrix stands between the input and the result"


def _up_to_heads(
    observer: Observer, above: Mapping[int, int], found: Mapping[int, list[list[int]]], main: int
) -> list[list[int]]:
    """The layers towards the main result, those after the point where heads part as one: they are the output head.

    A head is a branch with a weight of its own to a result that no other reads. A short branch to an auxiliary
    result, from inside the network, does not end it: the other branch is twice as long, and longer than a head.

    Args:
        observer: the observer of the pass.
        above: the dominators of the nodes.
        found: for each result, the layers before it.
        main: the result with the most layers.
    """
    parted = main
    for end in found.keys() & above.keys():
        parting = meet(above, main, end)
        towards_main, branch = (set(between(observer.reads, parting, node)) for node in (main, end))
        if end in towards_main or not any(observer.weights[node] for node in branch - towards_main):
            continue
        depth, other = (sum(layer[0] > parting for layer in found[node]) for node in (main, end))
        if depth < 2 * other or depth <= DEEPEST_HEAD:
            parted = min(parted, parting)
    trunk = [[node for node in layer if node <= parted] for layer in found[main] if layer[0] <= parted]
    if parted == main or not trunk:
        return found[main]
    return [*trunk, [node for layer in found[main] for node in layer if node > parted]]


class _Captures:
    """The points where each layer of a chain except the output head can be captured, later values first.

    A layer's value is captured where a module returns it, or else where a module receives it. The layer is named
    after the last module in it that returns something.
    """

    def __init__(self, observer: Observer, start: int, found: list[list[int]], *, is_loop: bool) -> None:
        self._observer = observer
        self._is_loop = is_loop
        before = start
        # By layer: the input to capture, if any, and the outputs that may name it.
        self._by_layer: list[list[tuple[Activation | None, list[Activation]]]] = []
        for index, nodes in enumerate(found):
            self._by_layer.append([point for node in reversed(nodes) for point in _captures(observer, before, node)])
            if index == len(found) - 1:  # the output head, unless it is a stack of recurrent layers
                last = self._by_layer.pop()[:1]
                stacked = [named for _, named in last if any(len(each.tensors) > 1 for each in named)]
                self._by_layer += [[(None, [each.without_last() for each in named])] for named in stacked]
            before = nodes[-1]

    def __bool__(self) -> bool:
        return any(self._by_layer)

    def tensors(self) -> list[list[Tensor]]:
        """By layer, every tensor that may represent it."""
        return [
            [
                tensor
                for received, named in points
                for each in ([received] if received else named)
                for tensor in each.tensors
            ]
            for points in self._by_layer
        ]

    def choose(self, samples: _Samples) -> list[tuple[str, Activation]]:
        """Names of the layers that have a batch dimension, and where each is captured."""
        chosen = []
        for points in self._by_layer:
            others = {
                run.module for other in self._by_layer if other is not points for _, named in other[:1] for run in named
            }
            for received, named in points:
                name = self._name(named, others) if named else None
                activation = received or name
                if activation is not None and all(t.ndim > 1 and samples.layout(t) for t in activation.tensors):
                    name = self.of_any_length(name) if name else None
                    key = _key(name) if name else f"{activation.module} (input)"
                    chosen.append((key, self.of_any_length(activation)))
                    break
        return chosen

    def of_any_length(self, activation: Activation) -> Activation:
        """The last of several calls in a loop stands for the last one of a loop of any length."""
        times = self._observer.times(activation.module)
        is_last = self._is_loop and 1 < times == activation.points[0].call.number
        return activation.at_last_call() if is_last else activation

    def _name(self, runs: list[Activation], others: set[str]) -> Activation:
        """The outermost of the modules that return a node and contain no other layer."""
        once = [run for run in runs if self._observer.times(run.module) == 1] or runs
        # A module that merely passes a tensor on later, such as an identity, does not name it.
        holders = [run for run in once if run is once[0] or once[0].module.startswith(f"{run.module}.")]
        alone = [run for run in holders if not any(other.startswith(f"{run.module}.") for other in others)]
        return alone[-1] if alone else once[0]


def _captures(observer: Observer, before: int, node: int) -> list[tuple[Activation | None, list[Activation]]]:
    """Where a cut point can be captured: as a module's input if none returns it; and the outputs that may name it."""
    returned = [activation for activation in observer.returned.get(node, []) if activation.differentiable]
    if returned:
        return [(None, returned)]
    received = [activation for activation in observer.received.get(node, []) if activation.differentiable]
    if not received:
        return []
    within = [each for each in between(observer.reads, before, node) if each in observer.returned]
    named = observer.returned[within[-1]] if within else []
    # A tensor after a stack of recurrent layers does not represent all of them.
    return [(None, named)] if any(each.is_stack for each in named) else [(received[0], named)]


def _key(activation: Activation) -> str:
    """The name of a module's call: ``name``, then ``name#2``, ..."""
    name, number = activation.module or OUTPUT, activation.points[0].call.number
    return name if number in (1, LAST) else f"{name}#{number}"


class _Samples:
    """What the samples of a chain are, and where each tensor has them.

    They are the samples of the input. Where the network merges them with something else up to its result, such as two
    views in one batch of twice the size, the rows of the result are the samples, if most layers have such rows.

    Args:
        observer: the observer of the pass.
        axis: the dimension of the input that is the batch.
        layers: for each layer, the tensors that may represent it.
        ends: the results.
    """

    def __init__(self, observer: Observer, axis: Axis, layers: Sequence[Sequence[Tensor]], ends: list[Tensor]) -> None:
        self._observer = observer
        self._axis = axis
        batches = [[observer.batch(tensor, axis) for tensor in tensors] for tensors in layers]
        known = [batch for batch in (observer.batch(end, axis) for end in ends) if batch is not None]
        sizes = known + [batch for tensors in batches for batch in tensors if batch is not None]
        units = [batch[1:] for batch in known] + [(batch.size, 1, 1) for batch in sizes]
        self._unit = (0, 1, 1)  # number of samples, and what is merged with each
        self.count = 0
        for unit in dict.fromkeys(units):
            count = sum(any(batch is not None and _is_of(batch, unit) for batch in tensors) for tensors in batches)
            if count > self.count or not self._unit[0]:
                self._unit, self.count = unit, count

    def layout(self, tensor: Tensor) -> Layout | None:
        """The layout of a tensor; None if its rows are not the samples."""
        batch = self._observer.batch(tensor, self._axis)
        if batch is None or not _is_of(batch, self._unit):
            return None
        _, outer, inner = self._unit
        channels = _channels(self._observer, tensor, batch.dim)
        return Layout(batch.dim, channels, batch.outer // outer, batch.inner // inner)


def _is_of(batch: Batch, unit: tuple[int, int, int]) -> bool:
    """Whether the samples of a batch are those of a unit, or can be split into them."""
    size, outer, inner = unit
    return batch.size == size and (outer, inner) in ((1, 1), (batch.outer, batch.inner))


def _samples_of_any(observer: Observer, tensors: list[Tensor], result: object) -> _Samples:
    """The samples of the input whose batch the most of these tensors have."""
    ends = [tensor for tensor in _ends(result) if observer.node(tensor) is not None]
    nodes = [node for end in ends if (node := observer.node(end)) is not None] or [0]
    axes = [observer.batch_axis(start, node) for start in range(len(observer.starts)) for node in nodes]
    layers = [[tensor] for tensor in tensors]
    candidates = [_Samples(observer, axis, layers, ends) for axis in dict.fromkeys(axes)]
    return max(candidates, key=lambda samples: samples.count)


def _with_layout(samples: _Samples, key: str, activation: Activation) -> Found:
    """The layers of one activation, by name; none if they have no batch dimension."""
    found: Found = {}
    for index, (point, tensor) in enumerate(zip(activation.points, activation.tensors, strict=True)):
        layout = samples.layout(tensor)
        if layout is None:
            return {}
        name = f"{key}[{index}]" if activation.is_stack else key
        layout = replace(layout, averaged=point.call.number == LAST and _is_spikes(tensor))
        found[name] = Layer(point, layout, activation.overwritten), tensor
    return found


def _is_spikes(tensor: Tensor) -> bool:
    """Whether a tensor holds zeros and ones alone; its last value in time then says little, and its mean is a rate."""
    return bool(((tensor == 0) | (tensor == 1)).all())


def _channels(observer: Observer, tensor: Tensor, batch: int) -> int:
    """The channel dimension: as inferred from the operations, else second in maps and last in sequences."""
    default = 1 if tensor.ndim != 3 else 2
    node = observer.node(tensor)
    inferred = default if node is None else observer.channels.get(node, default) % max(tensor.ndim, 1)
    return next(dim for dim in (inferred, default, 0, 1) if dim != batch)


def _chain(observer: Observer, module: nn.Module, found: Found, head: list[Activation], reason: str) -> Chain:
    """Build the chain of these layers, and the modules to watch to detect a pass that runs other layers."""
    ran = {call.module for call in observer.calls}
    children = {name: child for name, child in module.named_modules() if name not in ran}
    idle = [name for name, child in children.items() if has_forward(child) and any(True for _ in child.parameters())]
    layers = {key: layer for key, (layer, _) in found.items()}
    calls = [layer.point.call for layer in layers.values()] + [activation.points[0].call for activation in head]
    not_run: list[tuple[str, Side]] = [(name, "output") for name in idle]
    watched = frozenset([(call.module, call.side) for call in calls] + not_run)
    one_call = {(call.module, call.side) for call in calls if call.number != LAST}
    loops = frozenset((call.module, call.side) for call in calls if call.number == LAST) - one_call
    return Chain(layers, reason, watched, loops, _seen(observer.calls, watched, loops))


def _reason_for_none(
    observer: Observer, start: int, found: list[list[int]], captures: _Captures, chain_layers: Found
) -> str:
    """Why a network whose input reaches its result through weights has fewer than two layers."""
    shape = tuple(observer.starts[start].shape)
    if not captures:
        inside = between(observer.reads, start, found[-1][-1])
        if len(found) > 1:
            return "no module receives or returns, with a gradient, what a hidden layer holds"
        if sum(observer.weights[node] for node in inside) == 1:
            return "there is a single layer with weights, and no hidden one before it"
        return "a path runs round every inner module"
    if len(shape) < 2 and observer.starts[start].is_floating_point():
        return f"the input, of shape {shape}, is a single sample and no batch"
    if chain_layers and INPUT not in chain_layers:
        return f"there is only one layer, {next(iter(chain_layers))!r}: the MI between successive layers needs two"
    return f"no hidden layer has the samples of the input, of shape {shape}, in one of its first two dimensions"
