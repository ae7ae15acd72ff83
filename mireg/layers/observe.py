"""One observed forward pass: its data flow, and the inputs and outputs of each module."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.weak import WeakIdKeyDictionary

from mireg.layers.batch import UNKNOWN, Batch, Operation, through_memory
from mireg.layers.values import floats_in, read, tensors_in

Side = Literal["input", "output"]

Axis = tuple[int, int]
"""One of the first two dimensions of an input: the input's node, and the dimension."""


LAST = 0
"""Number of the last call of a module in a pass."""


SHAPE_ALONE = frozenset(
    [f"{name}_like" for name in ("empty", "zeros", "ones", "full", "rand", "randn", "randint")]
    + ["new_empty", "new_zeros", "new_ones", "new_full", "new_empty_strided"]
)
"""Operations that read the shape of a tensor and no value, as for the first state of a recurrent cell."""


class Call(NamedTuple):
    """The beginning or the end of one call of a module in a pass.

    Attributes:
        module: the module's name; ``""`` is the network itself.
        number: the number of the call among the module's calls in the pass, from 1; :data:`LAST` for the last one,
            however many there are.
        side: ``"input"`` where the call begins, ``"output"`` where it ends.
    """

    module: str
    number: int
    side: Side


class Point(NamedTuple):
    """An input or output tensor of a call, where a layer can be captured.

    Attributes:
        call: the call that receives or returns the tensor.
        position: for an input, its index among the call's floating-point inputs; for an output of a recurrent module,
            the index of the stacked layer.
    """

    call: Call
    position: int


@dataclass(frozen=True, eq=False)
class Activation:
    """The tensors at one or several points of the observed pass.

    Attributes:
        points: one point for each tensor.
        tensors: the tensors at these points.
        is_stack: whether they are the layers of a multi-layer recurrent module.
    """

    points: list[Point]
    tensors: list[Tensor]
    is_stack: bool
    _versions: list[int]
    _has_gradient: bool

    @property
    def module(self) -> str:
        """The name of the module that receives or returns the tensors."""
        return self.points[0].call.module

    @property
    def differentiable(self) -> bool:
        """Whether a gradient can flow through them; in a checkpointed block, only through its final output."""
        return self._has_gradient or all(tensor.requires_grad for tensor in self.tensors)

    @property
    def overwritten(self) -> bool:
        """Whether the network has since modified them in place."""
        return self._versions != _versions(self.tensors)

    def at_last_call(self) -> Activation:
        """A copy that stands for the last call of its module in any pass."""
        return replace(self, points=[point._replace(call=point.call._replace(number=LAST)) for point in self.points])

    def without_last(self) -> Activation:
        """A copy without the last tensor."""
        return replace(self, points=self.points[:-1], tensors=self.tensors[:-1], _versions=self._versions[:-1])


def _moved(batches: dict[Axis, Batch], source: Tensor, result: Tensor) -> dict[Axis, Batch]:
    """Where the axes are in another view of the same memory."""
    return {axis: through_memory(batch, source, result) for axis, batch in batches.items()}


def _versions(tensors: Iterable[Tensor]) -> list[int]:
    return [0 if t.is_inference() else t._version for t in tensors]


class Observer(TorchDispatchMode):
    """Records the data flow of one forward pass, and the inputs and outputs of its modules.

    Use it as a context manager around the pass. It changes no value and draws no random number. Every tensor that
    depends on the inputs of the pass is a node, an integer in execution order.

    Attributes:
        starts: the input tensors, nodes 0, 1, ...; floating-point ones first.
        reads: for each node, the nodes that it reads.
        weights: for each node, whether a weight with at least two dimensions enters there.
        sizes: for each node, its number of elements.
        channels: for a node, its channel dimension, if an operation determines it.
        received: for a node, where modules receive it.
        returned: for a node, where modules return it, inner modules first.
        outputs: the outputs of all modules, in order.
        calls: the calls of all modules, in order.
        nodes_before: for each of the calls, the number of nodes before it.
        weighted: the modules with a weight of their own.
        batches: for each node, where the first two dimensions of the inputs are in it: either may be the batch.
        batch_second: the inputs of modules that have the batch second.
    """

    supports_higher_order_operators = True

    def __init__(self, module: nn.Module, inputs: object) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        unique = {id(tensor): tensor for tensor in tensors_in(inputs)}
        self.starts = sorted(unique.values(), key=lambda tensor: not tensor.is_floating_point())
        self.reads: list[tuple[int, ...]] = []
        self.weights: list[bool] = []
        self.sizes: list[int] = []
        self.channels: dict[int, int] = {}
        self.received: dict[int, list[Activation]] = {}
        self.returned: dict[int, list[Activation]] = {}
        self.outputs: list[Activation] = []
        self.calls: list[Call] = []
        self.nodes_before: list[int] = []
        self.weighted: set[str] = set()
        self.batches: list[dict[Axis, Batch]] = []
        self.batch_second: list[int] = []
        # tensor -> its node; -1 for a parameter and for what is computed from parameters alone
        self._node: WeakIdKeyDictionary = WeakIdKeyDictionary()
        self._written: WeakIdKeyDictionary = WeakIdKeyDictionary()  # tensor -> the last node written into its memory
        self._masks: set[int] = set()  # booleans computed from integers
        self._counts: Counter[tuple[str, Side]] = Counter()
        self._gradient = torch.is_grad_enabled()
        for start, tensor in enumerate(self.starts):
            shape = () if tensor.is_nested else tensor.shape[:2]
            axes = {(start, dim): Batch(dim, size) for dim, size in enumerate(shape) if size}
            self._node[tensor] = self._add((), tensor, axes, has_weight=False)
        for parameter in nn.Module.parameters(module):  # which the network may override
            self._node[parameter] = -1
        self._handles = []
        for name, child in module.named_modules():
            on_input, on_output = functools.partial(self._on_input, name), functools.partial(self._on_output, name)
            self._handles.append(child.register_forward_pre_hook(on_input, with_kwargs=True))
            self._handles.append(child.register_forward_hook(on_output))

    @property
    def reads_but_masks(self) -> list[tuple[int, ...]]:
        """``reads`` without masks computed from integers, such as a padding mask computed from tokens."""
        return [tuple(node for node in read if node not in self._masks) for read in self.reads]

    def node(self, tensor: Tensor) -> int | None:
        """The node of a tensor; None if it depends on no input, or on the memory of more than one node."""
        nodes = self._nodes(tensor)
        return nodes[0] if len(nodes) == 1 and nodes[0] >= 0 else None

    def _nodes(self, tensor: Tensor) -> list[int]:
        """The nodes that a tensor's values come from: its own, and any since written into its memory."""
        own = self._node.get(tensor)
        nodes = [] if own is None else [own]
        base = tensor._base
        if base is not None and base in self._written and (own is None or own < self._written[base]):
            nodes.append(self._node[base])
        return nodes

    def batch_axis(self, start: int, end: int) -> Axis:
        """The dimension of an input that is the batch: the first, or the second, which sequences may come before.

        It is the one that reaches the result, or else the one where a module that has the batch second takes it.
        """
        first, second = (start, 0), (start, 1)
        reached = [axis for axis in (first, second) if self._dim(end, axis) is not None]
        if len(reached) == 1:
            return reached[0]
        dims = [(self._dim(node, first), self._dim(node, second)) for node in self.batch_second]
        return second if any(b == 1 and a != 1 for a, b in dims) else first

    def has_rows_of(self, end: int, start: int) -> bool:
        """Whether one of the first two dimensions of an input is the same dimension of a result."""
        return any(self._dim(end, (start, dim)) == dim for dim in (0, 1))

    def batch(self, tensor: Tensor, axis: Axis) -> Batch | None:
        """Where a dimension of an input is in a tensor; None if an operation removed it, or if that is unknown."""
        batch = self._batches(tensor).get(axis)
        return batch if batch is not None and batch.dim != UNKNOWN else None

    def without_earlier_calls(self, count: int) -> list[tuple[int, ...]]:
        """``reads`` without what modules with a weight compute before the last of their ``count`` calls.

        In a loop over time this leaves the last step, which its state then enters from nowhere.
        """
        reads = list(self.reads)
        begun: dict[tuple[str, int], int] = {}
        for call, node in zip(self.calls, self.nodes_before, strict=True):
            if call.module in self.weighted and self._counts[call.module, "output"] == count and call.number < count:
                if call.side == "input":
                    begun[call.module, call.number] = node
                else:
                    for earlier in range(begun[call.module, call.number], node):
                        reads[earlier] = ()
        return reads

    def times(self, module: str) -> int:
        """How often a module has run."""
        return self._counts[module, "output"]

    def _dim(self, node: int, axis: Axis) -> int | None:
        batch = self.batches[node].get(axis)
        return batch.dim if batch is not None and batch.dim != UNKNOWN else None

    def _batches(self, tensor: Tensor) -> dict[Axis, Batch]:
        """Where the axes are in a tensor, or in the memory that it is a view of."""
        own: int = self._node.get(tensor, -1)
        if own >= 0:
            return self.batches[own]
        base = tensor._base
        if base is None or base not in self._written or self._node[base] < 0:
            return {}
        return _moved(self.batches[self._node[base]], base, tensor)

    def _follow(self, operation: Operation, result: Tensor) -> dict[Axis, Batch]:
        """Where the axes are in a result, each according to the first operand that has it."""
        found: dict[Axis, Batch | None] = {}
        for argument, tensor in operation.operands:
            for axis, batch in self._batches(tensor).items():
                if operation.adds_rows(argument):  # where there are as many as in the input, they are samples again
                    batch = Batch(batch.dim, self.starts[axis[0]].shape[axis[1]])
                known = found.get(axis)
                if axis not in found or (known is not None and known.dim == UNKNOWN):
                    found[axis] = operation.follow(argument, tensor, batch, result)
        return {axis: batch for axis, batch in found.items() if batch is not None}

    def _add(self, reads: tuple[int, ...], tensor: Tensor, batches: dict[Axis, Batch], *, has_weight: bool) -> int:
        self.reads.append(reads)
        self.weights.append(has_weight)
        self.sizes.append(tensor.numel())
        self.batches.append(batches)
        return len(self.reads) - 1

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        operation = Operation(func, args, kwargs or {})
        operands = [tensor for _, tensor in operation.operands]
        read = [(tensor, node) for tensor in operands for node in self._nodes(tensor)]
        read = [] if operation.name in SHAPE_ALONE else read
        result = func(*args, **(kwargs or {}))
        if not read:
            return result
        data = {node: tensor for tensor, node in reversed(read) if node >= 0}
        has_weight = any(node < 0 and tensor.ndim >= 2 for tensor, node in read)
        integers = not any(tensor.is_floating_point() or tensor.dtype == torch.bool for tensor in data.values())
        for index, tensor in enumerate(tensors_in(result)):
            node = -1
            if data:
                batches = self._follow(operation, tensor)
                node = self._add(tuple(sorted(data)), tensor, batches, has_weight=has_weight)
            if data and integers and tensor.dtype == torch.bool:
                self._masks.add(node)
            if index == 0 and data:
                for source, before in data.items():
                    self._note_channels(func, source, before, node, tensor)
            self._node[tensor] = node
            if data and any(tensor is each for each in operands):
                self._note_write(tensor, node)
        return result

    def _note_write(self, tensor: Tensor, node: int) -> None:
        """Record an in-place write; a write to a view also makes its base tensor a new node."""
        base = tensor._base
        if base is None:
            self._written[tensor] = node
        else:
            rest = [self._node[base]] if self._node.get(base, -1) >= 0 else []
            before = self.batches[self._node[base]] if rest else {}
            batches = {**_moved(self.batches[node], tensor, base), **before}
            self._written[base] = node
            self._node[base] = self._add((*rest, node), base, batches, has_weight=False)

    def _note_channels(self, func: Any, source: int, before: Tensor, node: int, after: Tensor) -> None:
        """Infer the channel dimension: second at a convolution, last at a layer norm, then kept while its size is."""
        if before.is_nested or after.is_nested:  # which have no sizes
            return
        if func is torch.ops.aten.convolution.default:
            self.channels[source] = self.channels[node] = 1
        elif func is torch.ops.aten.native_layer_norm.default and before.ndim >= 3:
            self.channels.setdefault(source, -1)
            self.channels[node] = -1
        elif source in self.channels and after.ndim == before.ndim:
            channel = self.channels[source]
            if after.shape[channel] == before.shape[channel]:
                self.channels.setdefault(node, channel)

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def network_input(self, start: int) -> Activation | None:
        """Where the network itself receives one of its inputs."""
        return next((activation for activation in self.received.get(start, []) if not activation.module), None)

    def _on_input(self, name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        for parameter in nn.Module.parameters(module, recurse=False):
            self._node[parameter] = -1  # a sharded module has different parameters while it runs
            if parameter.ndim >= 2:
                self.weighted.add(name)
        call = self._call(name, "input")
        floats = floats_in((args, kwargs))
        if floats and floats[0].ndim == 3 and getattr(module, "batch_first", True) is False:
            self.batch_second += [node for node in [self.node(floats[0])] if node is not None]
        for index, tensor in enumerate(floats):
            self._note_activation(self.received, [tensor], self._activation([Point(call, index)], [tensor]))

    def _on_output(self, name: str, module: nn.Module, args: Any, output: Any) -> None:
        values = read(module, output)
        call = self._call(name, "output")
        if not values or not (name or isinstance(module, nn.RNNBase)):
            return  # the network's own output is not a hidden layer
        activation = self._activation([Point(call, index) for index in range(len(values))], values)
        self.outputs.append(activation)
        # The network may use either the outputs over time or the final states of a recurrent module.
        stands_for = tensors_in(output) if isinstance(module, nn.RNNBase) else values
        self._note_activation(self.returned, stands_for, activation)

    def _call(self, name: str, side: Side) -> Call:
        self._counts[name, side] += 1
        call = Call(name, self._counts[name, side], side)
        self.calls.append(call)
        self.nodes_before.append(len(self.reads))
        return call

    def _activation(self, points: list[Point], tensors: list[Tensor]) -> Activation:
        has_gradient = torch.is_grad_enabled() or not self._gradient
        return Activation(points, tensors, len(points) > 1, _versions(tensors), has_gradient)

    def _note_activation(
        self, where: dict[int, list[Activation]], nodes: Iterable[Tensor], activation: Activation
    ) -> None:
        for node in dict.fromkeys(self.node(tensor) for tensor in nodes):
            if node is not None:
                where.setdefault(node, []).append(activation)
