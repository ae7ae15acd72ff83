"""Which modules of a network are its successive layers.

Successive layers are points that all of the input's information runs through: T1, T2, ... form
a Markov chain, so that the MI between neighbours means something. In a feed-forward stack that is
every layer; in a residual network it is the output of each block, since the skip connection passes
by everything inside it. ``"auto"`` finds them from one observed forward pass, without running
the network a second time, as the nodes of its data-flow graph that no edge jumps over.
"""

from __future__ import annotations

import fnmatch
import functools
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

INPUT = "input"
"""Name of the network's input in a chain of layers."""

LayerSpec = str | type[nn.Module] | Callable[[str, nn.Module], bool] | Sequence["LayerSpec"]
"""``"auto"``, a module name or glob, a module type, a predicate of (name, module), or several."""


def tensors_in(value: object) -> Iterable[Tensor]:
    """Every tensor inside nested tuples, lists, mappings and dataclasses, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, tuple | list):
        for item in value:
            yield from tensors_in(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            yield from tensors_in(getattr(value, field.name))


def first_float(value: object) -> Tensor | None:
    """The first floating-point tensor inside ``value``, the one that stands for it in the chain."""
    return next((t for t in tensors_in(value) if t.is_floating_point()), None)


def match(module: nn.Module, spec: LayerSpec) -> list[str]:
    """Names of the submodules that a specification other than ``"auto"`` selects.

    Raises:
        ValueError: if a pattern, type or predicate selects nothing.
    """
    if isinstance(spec, Sequence) and not isinstance(spec, str):
        chosen = {name for item in spec for name in match(module, item)}
        return [name for name, _ in module.named_modules() if name in chosen]
    names = [name for name, child in module.named_modules() if name and _selects(spec, name, child)]
    if not names:
        have = [name for name, _ in module.named_modules() if name]
        shown = ", ".join(have[:12]) + (", ..." if len(have) > 12 else "")
        raise ValueError(f"layers={spec!r} matches no module of {type(module).__name__}: it has {shown or 'none'}")
    return names


def _selects(spec: LayerSpec, name: str, module: nn.Module) -> bool:
    if isinstance(spec, str):
        return fnmatch.fnmatchcase(name, spec)
    if isinstance(spec, type):
        return isinstance(module, spec)
    if callable(spec):
        return bool(spec(name, module))
    raise TypeError(
        f"layers={spec!r}: give 'auto', a module name or glob, a module type, a predicate, or a list of them"
    )


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
        self._outputs: dict[int, list[tuple[str, Tensor]]] = {}  # by node: modules that put it out, inner first
        self._calls: Counter[str] = Counter()
        inputs = list(tensors_in(inputs))
        # The chain starts from the first float input; networks of tokens have only integer ones.
        self._starts = sorted(inputs, key=lambda tensor: not tensor.is_floating_point())
        for tensor in self._starts:
            self._node[tensor] = self._add((), has_weight=False)
        for parameter in module.parameters():
            self._node[parameter] = -1
        self._handles = [
            child.register_forward_hook(functools.partial(self._on_output, name))
            for name, child in module.named_modules()
            if name
        ]

    def _add(self, reads: tuple[int, ...], *, has_weight: bool) -> int:
        self._reads.append(reads)
        self._has_weight.append(has_weight)
        return len(self._reads) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        read = [(t, self._node[t]) for t in tensors_in((args, kwargs or {})) if t in self._node]
        data = tuple({node for _, node in read if node >= 0})
        node = -1
        if data:
            node = self._add(data, has_weight=any(n < 0 and t.ndim >= 2 for t, n in read))
        if read:
            for tensor in tensors_in(result):
                self._node[tensor] = node
        return result

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def _on_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        self._calls[name] += 1
        tensor = first_float(output)
        if tensor is not None and self._node.get(tensor, -1) >= len(self._starts):
            self._outputs.setdefault(self._node[tensor], []).append((name, tensor))

    def layers(self, result: object) -> dict[str, Tensor]:
        """The successive layers, in execution order, with what they put out in the observed pass.

        A layer lasts from one weight to the next, so that its activation, normalisation and
        pooling belong to it; the last one, the output head, is left out. ``"input"`` comes first
        where it is floating point. A module that ran more than once names no layer.

        Args:
            result: what the observed pass returned; its first float tensor ends the chain.
        """
        output = first_float(result)
        end = -1 if output is None else self._node.get(output, -1)
        for start, tensor in enumerate(self._starts):
            chain = self._chain(start, end)
            if chain:
                layers = self._name(chain)
                return {INPUT: tensor, **layers} if tensor.is_floating_point() else layers
        return {}

    def _chain(self, start: int, end: int) -> list[int]:
        """By layer, its last node that every path from start to end runs through and a module puts out."""
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
            if weighted and node in cuts and self._names(node):
                candidate = node
        return layers

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

    def _names(self, node: int) -> list[str]:
        """Modules, inner first, that ran once and put the node out."""
        return [name for name, _ in self._outputs.get(node, []) if self._calls[name] == 1]

    def _name(self, chain: list[int]) -> dict[str, Tensor]:
        """The chain's outputs under the name of the outermost module that holds no other layer."""
        named = {}
        for node in chain:
            others = [name for other in chain if other != node for name in self._names(other)]
            names = self._names(node)
            alone = [name for name in names if not any(other.startswith(f"{name}.") for other in others)]
            name = alone[-1] if alone else names[0]
            named[name] = next(tensor for key, tensor in self._outputs[node] if key == name)
        return named
