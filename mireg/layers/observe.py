"""Which modules of a network are its successive layers.

Successive layers are points that all of the input's information runs through: T1, T2, ... form
a Markov chain, so that the MI between neighbours means something. In a feed-forward stack that is
every layer; in a residual network it is the output of each block, since the skip connection passes
by everything inside it. ``"auto"`` finds them from one observed forward pass, without running
the network a second time, as the nodes of its data-flow graph that no edge jumps over.

The rows of a layer must be samples: the same pass tells which dimension of each output is the batch
and which one holds the channels.
"""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from mireg.layers.layout import Layout
from mireg.layers.select import INPUT
from mireg.layers.values import first_float, read, tensors_in

OUTPUT = "output"
"""Name of what the network itself puts out, where no module inside it does."""

FEWEST = 3
"""Layers, the input among them, below which the output head counts as one too: two pairs."""


@dataclass(frozen=True, eq=False)
class _Run:
    """One run of a module in the observed pass; the second run of a module has the key ``name#2``."""

    name: str
    key: str
    module: nn.Module
    output: object
    versions: tuple[int, ...]
    has_gradient: bool

    def differentiable(self) -> bool:
        return self.has_gradient or all(tensor.requires_grad for tensor in self.values().values())

    def values(self) -> dict[str, Tensor]:
        return read(self.key, self.module, self.output)

    def overwritten(self) -> bool:
        return self.versions != _versions(self.output)


def _versions(output: object) -> tuple[int, ...]:
    return tuple(0 if t.is_inference() else t._version for t in tensors_in(output))


def _ending(result: object) -> Tensor | None:
    """What ends the chain: the first float tensor of a result that is not a scalar, as a loss is."""
    floats = [t for t in tensors_in(result) if t.is_floating_point()]
    return next((t for t in floats if t.ndim > 0), floats[0] if floats else None)


def repeated(name: str, call: int) -> str:
    """The key of a layer's call, counted from 1, within one pass."""
    return name if call == 1 else f"{name}#{call}"


class Observer(TorchDispatchMode):
    """Records the data flow of one forward pass, and which node each module's output is.

    Used as a context around the pass. It changes no value and takes no random number.
    """

    def __init__(self, module: nn.Module, inputs: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        # tensor -> its node; -1 for a parameter and for what is made of parameters alone
        self._node: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._reads: list[tuple[int, ...]] = []  # by node: the nodes it reads
        self._has_weight: list[bool] = []  # by node: a weight, at least a matrix, enters here
        self._channels: dict[int, int] = {}  # by node: the dimension of the channels, where an operation told it
        self._batch_sizes: list[int] = []  # as the modules that have the batch second saw it
        self._runs: list[_Run] = []  # of every module, in the order of their ends
        self._outputs: dict[int, list[_Run]] = {}  # by node: the runs that put it out, inner first
        self._calls: Counter[str] = Counter()
        self._gradient = torch.is_grad_enabled()
        self._input = first_float(inputs)
        # The chain starts from the first float input; networks of tokens have only integer ones.
        self._starts = sorted(tensors_in(inputs), key=lambda tensor: not tensor.is_floating_point())
        for tensor in self._starts:
            self._node[tensor] = self._add((), has_weight=False)
        for parameter in module.parameters():
            self._node[parameter] = -1
        self._handles = []
        for name, child in {OUTPUT: module, **_children(module)}.items():
            self._handles.append(child.register_forward_pre_hook(self._on_input, with_kwargs=True))
            self._handles.append(child.register_forward_hook(functools.partial(self._on_output, name)))

    def _add(self, reads: tuple[int, ...], *, has_weight: bool) -> int:
        self._reads.append(reads)
        self._has_weight.append(has_weight)
        return len(self._reads) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [(t, self._node[t]) for t in tensors_in((args, kwargs or {})) if t in self._node]
        data = {node: t for t, node in reversed(read) if node >= 0}
        node = -1
        if data:
            node = self._add(tuple(data), has_weight=any(n < 0 and t.ndim >= 2 for t, n in read))
            for source, tensor in data.items():
                self._note_channels(func, source, tensor, node, first_float(result))
        if read:
            for tensor in tensors_in(result):
                self._node[tensor] = node
        return result

    def _note_channels(self, func: Any, source: int, before: Tensor, node: int, after: Tensor | None) -> None:
        """Convolutions have their channels second, layer norms last; what keeps the size keeps the place."""
        if func is torch.ops.aten.convolution.default:
            self._channels[source] = self._channels[node] = 1
        elif func is torch.ops.aten.native_layer_norm.default and before.ndim >= 3:
            self._channels.setdefault(source, -1)
            self._channels[node] = -1
        elif source in self._channels and after is not None and after.ndim == before.ndim:
            place = self._channels[source]
            if after.shape[place] == before.shape[place]:
                self._channels.setdefault(node, place)

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _on_input(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        for parameter in module.parameters(recurse=False):
            self._node[parameter] = -1  # a sharded module has others while it runs
        tensor = first_float((args, kwargs))
        if getattr(module, "batch_first", True) is False and tensor is not None and tensor.ndim == 3:
            self._batch_sizes.append(tensor.shape[1])

    def _on_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._calls[name] += 1
        has_gradient = torch.is_grad_enabled() or not self._gradient
        run = _Run(name, repeated(name, self._calls[name]), module, output, _versions(output), has_gradient)
        self._runs.append(run)
        # Either the outputs over time or the final states of a recurrent module may be what is used of it.
        tensors = tensors_in(output) if isinstance(module, nn.RNNBase) else [first_float(output)]
        for tensor in tensors:
            node = -1 if tensor is None else self._node.get(tensor, -1)
            if node >= len(self._starts):
                self._outputs.setdefault(node, []).append(run)

    def layers(self, result: object) -> dict[str, tuple[Layout, Tensor]]:
        """The successive layers, in execution order, with what they put out in the observed pass.

        A layer lasts from one weight to the next, so that its activation, normalisation and
        pooling belong to it; the last one, the output head, is left out, unless too few remain.
        ``"input"`` comes first where the chain starts from the first float input.

        Args:
            result: what the observed pass returned; its first float tensor that is not a scalar, such
                as a loss, ends the chain.
        """
        output = _ending(result)
        end = -1 if output is None else self._node.get(output, -1)
        chains = [self._chain(start, end) for start in range(len(self._starts))]
        if not any(chains):
            return {}
        # A mask or a position may come first; the data are what the longest chain starts from.
        longest = max(chains, key=len)
        start = self._starts[chains.index(longest)]
        with_input = start is self._input
        found = self._lay_out(self._choose(longest[:-1]), with_input=with_input, sizes=[output, start])
        if len(found) < FEWEST:
            found = self._lay_out(self._choose(longest), with_input=with_input, sizes=[output, start])
        return found

    def named(self, names: Iterable[str], result: object) -> dict[str, tuple[Layout, Tensor]]:
        """Every run of the named modules, as :meth:`layers` gives it.

        Raises:
            ValueError: if one of them did not run, or has no dimension that can be the batch.
        """
        names = list(names)
        ran = {run.name for run in self._runs}
        idle = [name for name in names if name != INPUT and name not in ran]
        if idle:
            raise ValueError(
                f"layers {', '.join(idle)} did not run in the forward pass: leave them out of layers=, or run the "
                "wrapped network instead of a part of it"
            )
        runs = [run for run in self._runs if run.name in names]
        found = self._lay_out(runs, with_input=INPUT in names, sizes=[_ending(result), *self._starts])
        for run in runs:
            for key, tensor in run.values().items():
                if key not in found:
                    raise ValueError(
                        f"layer {key!r} puts out {tuple(tensor.shape)}, where neither of the first two dimensions is "
                        "the batch: the rows of a layer must be samples; choose another layer"
                    )
        return found

    def names(self, keys: Iterable[str]) -> list[str]:
        """The modules that those layers are outputs of."""
        wanted = set(keys)
        return list(dict.fromkeys(run.name for run in self._runs if not wanted.isdisjoint(run.values())))

    def _chain(self, start: int, end: int) -> list[int]:
        """By layer, its last node that every path from start to end runs through and a module puts out; head last."""
        between = self._between(start, end)
        cuts = self._cuts(start, end, between)
        layers: list[int] = []
        candidate: int | None = None
        weighted = False
        for node in between:
            if self._has_weight[node]:
                weighted = True
                if candidate is not None:
                    layers.append(candidate)
                    candidate = None
            if weighted and node in cuts and node in self._outputs:
                candidate = node
        return layers if candidate is None else [*layers, candidate]

    def _between(self, start: int, end: int) -> list[int]:
        """Nodes on some path from start to end, in execution order, without start."""
        below = {start}
        for node in range(len(self._starts), end + 1):
            if not below.isdisjoint(self._reads[node]):
                below.add(node)
        above = {end} & below
        for node in range(end, len(self._starts) - 1, -1):
            if node in above:
                above.update(self._reads[node])
        return sorted((above & below) - {start})

    def _cuts(self, start: int, end: int, between: list[int]) -> set[int]:
        """The nodes that every path from start to end runs through: no edge jumps over them."""
        last_reader = {end: len(self._reads)}
        for node in between:
            last_reader |= dict.fromkeys(self._reads[node], node)
        cuts = set()
        furthest = last_reader.get(start, 0)  # where the longest edge from before the node ends
        for node in between:
            if furthest <= node:
                cuts.add(node)
            furthest = max(furthest, last_reader[node])
        return cuts

    def _choose(self, chain: list[int]) -> list[_Run]:
        """Of the modules that put out each node, the outermost that holds no other layer."""
        # Of what ran without gradients, only the output of a checkpointed block has one afterwards.
        named = [runs for node in chain if (runs := [run for run in self._outputs[node] if run.differentiable()])]
        chosen = []
        for runs in named:
            others = {run.name for other in named if other is not runs for run in other}
            once = [run for run in runs if self._calls[run.name] == 1] or runs
            # What merely hands a tensor on later, such as an identity, is no name for it.
            holders = [run for run in once if run is once[0] or once[0].name.startswith(f"{run.name}.")]
            alone = [run for run in holders if not any(other.startswith(f"{run.name}.") for other in others)]
            chosen.append(alone[-1] if alone else once[0])
        return chosen

    def _lay_out(
        self, runs: list[_Run], *, with_input: bool, sizes: list[Tensor | None]
    ) -> dict[str, tuple[Layout, Tensor]]:
        """The outputs of the runs whose rows can be samples, ``sizes`` being tensors that may tell the batch."""
        tensors: dict[str, tuple[Tensor, bool]] = {}
        if with_input and self._input is not None:
            tensors[INPUT] = self._input, False
        for run in runs:
            overwritten = run.overwritten()
            tensors |= {key: (tensor, overwritten) for key, tensor in run.values().items()}
        candidates = self._batch_sizes + [t.shape[0] for t in sizes if t is not None and t.ndim > 0]
        second = bool(self._batch_sizes)
        if not candidates:
            return {}

        def place(tensor: Tensor, size: int) -> int | None:
            order = (1, 0) if second and tensor.ndim == 3 else (0, 1) if tensor.ndim >= 3 else (0,)
            return next((dim for dim in order if dim < tensor.ndim and tensor.shape[dim] == size), None)

        size = max(candidates, key=lambda size: sum(place(t, size) is not None for t, _ in tensors.values()))
        found = {}
        for key, (tensor, overwritten) in tensors.items():
            batch = place(tensor, size)
            if batch is not None:
                found[key] = Layout(batch, self._channel_place(tensor, batch), overwritten), tensor
        return found

    def _channel_place(self, tensor: Tensor, batch: int) -> int:
        """The dimension of the channels: as the operations told, else second in maps and last in sequences."""
        usual = 1 if tensor.ndim != 3 else 2
        place = self._channels.get(self._node.get(tensor, -1), usual) % max(tensor.ndim, 1)
        return place if place != batch else usual


def _children(module: nn.Module) -> dict[str, nn.Module]:
    """Every module inside a network, by name."""
    return {name: child for name, child in module.named_modules() if name}
