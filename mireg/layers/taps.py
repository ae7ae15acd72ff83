"""Capture the outputs of the chosen layers."""

from __future__ import annotations

import threading
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo
from torch.autograd import forward_ad
from torch.utils.hooks import RemovableHandle

from mireg.layers.chain import Chain, Layer, chosen, named
from mireg.layers.layout import Layout, arranged
from mireg.layers.observe import LAST, Call, Observer, Point, Side
from mireg.layers.select import LayerSpec, select
from mireg.layers.values import floats_in, read, tensors_in

MOST_OBSERVED = 8
"""Maximum number of observed passes per network: more do not help if the layers that run are chosen at random."""


class _Eager:
    """Switches torch.compile off, for all threads, while one is inside; then what was set before is set again."""

    def __init__(self) -> None:
        self._lock, self._inside = threading.Lock(), 0

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._stance: Any = torch.compiler.set_stance("force_eager")
            self._inside += 1

    def __exit__(self, *exc: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside:
                self._stance.__exit__(*exc)


EAGER = _Eager()


class Taps:
    """Captures the outputs of the chosen layers during a forward pass, in execution order.

    A tap is a hook that stores a reference; it copies nothing (except a tensor that the network overwrites) and
    changes nothing. The first pass is observed, to choose the layers for ``layers="auto"`` and to find the batch and
    channel dimensions of each; later passes reuse this. A pass that runs different layers returns the known layers
    that ran, and the next pass is observed again. A layer that runs more than once in a pass is captured each time,
    as ``name``, ``name#2``, ...

    Args:
        module: the network.
        layers: see :data:`mireg.layers.LayerSpec`; ``"input"`` in a list adds the network's input.

    Attributes:
        layouts: layouts of the layers, by name; None if the next pass will be observed, as the first one is.
        known_layouts: layouts of all layers found in the observed passes, by name.
        reason: why the last pass captured no layers: the network has no chain of them, or a transform hides them;
            else empty.

    Raises:
        ValueError: if a pattern matches nothing, or fewer than 2 layers are selected.
    """

    def __init__(self, module: nn.Module, layers: LayerSpec = "auto") -> None:
        self.module = module
        self.layouts: dict[str, Layout] | None = None
        self.known_layouts: dict[str, Layout] = {}
        self.reason = ""
        self._wanted = None if layers == "auto" else select(module, layers)
        self._chains: list[Chain] = []  # chains of the observed passes, the latest first
        self._hooks: list[RemovableHandle] = []
        self._captured: dict[Point, list[Tensor]] | None = None  # a dict during a pass, None outside
        self._calls: list[Call] = []  # calls of the watched modules in the current pass
        self._numbers: dict[tuple[str, Side], int] = {}  # number of these calls so far, by module and side
        self._points: dict[Point, bool] = {}  # where layers are captured -> whether the network overwrites them
        self._observed = 0  # number of observed passes
        self._delay = 1  # passes between one that ran other layers and the next observed one
        self._wait = 0  # passes left of this delay
        self._single: list[torch.Size] | None = None  # sizes of the inputs, if the observed pass was of one sample

    @property
    def chain(self) -> list[str]:
        """The layers of the last observed pass, in execution order: at least two, or none."""
        return list(self._chains[0].layers) if self._chains else []

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Run the network and return its result and the outputs of its layers.

        Returns:
            The network's own result, and a dict from layer name to (n, channels, positions ...) tensor. If ``"auto"``
            finds no chain of layers, the dict is empty and :attr:`reason` says why.

        Raises:
            ValueError: in the first pass, if a chosen layer does not run or has no batch dimension.
        """
        is_other = self._single is not None and _sizes((args, kwargs)) != self._single
        if self.layouts is None or (is_other and self._observed < MOST_OBSERVED):
            observed: tuple[Any, dict[str, Tensor]] = self.observe(*args, **kwargs)
            return observed
        if not torch.compiler.is_compiling():
            hidden = _hidden_by()
            self.reason = hidden or self._chains[0].reason
            if hidden:
                return self.module(*args, **kwargs), {}
        self._captured, self._calls, self._numbers = {}, [], {}
        try:
            result = self.module(*args, **kwargs)
            return result, self._arranged(self._captured)
        finally:
            self._captured = None

    @_disable_dynamo
    def run_uncompiled(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """A :meth:`run` that is never compiled."""
        with EAGER:
            return self.run(*args, **kwargs)

    def capture(self, name: str, side: Side, tensors: list[Tensor]) -> None:
        """Store the inputs or outputs of a module during :meth:`run` (but not during recomputation in backward)."""
        if self._captured is None:
            return
        self._numbers[name, side] = self._numbers.get((name, side), 0) + 1
        call = Call(name, self._numbers[name, side], side)
        self._calls.append(call)
        for index, tensor in enumerate(tensors):
            for point in (Point(call, index), Point(call._replace(number=LAST), index)):
                if point in self._points:
                    self._captured.setdefault(point, []).append(tensor.clone() if self._points[point] else tensor)

    def _arranged(self, captured: dict[Point, list[Tensor]]) -> dict[str, Tensor]:
        """The layers that ran, from the chain that fits, else from the chain of which the most layers ran."""
        chain = next((chain for chain in self._chains if chain.fits(self._calls)), None)
        if chain is None and not self._wait and self._observed < MOST_OBSERVED:
            self._wait = self._delay
        if self._wait:
            self._wait -= 1
            if not self._wait:
                self.layouts = None
        if chain is None:
            chain = max(self._chains, key=lambda chain: sum(layer.point in captured for layer in chain.layers.values()))
        ran = {key: layer for key, layer in chain.layers.items() if layer.point in captured}
        return arranged({key: (layer.layout, _value(layer, captured[layer.point])) for key, layer in ran.items()})

    def remove(self) -> None:
        """Remove the hooks from the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @_disable_dynamo  # like torch.compiler.disable, which would import the compiler at once: a second or more
    def observe(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Do an observed :meth:`run`, never compiled, and install the taps on the layers it finds."""
        self.reason = _hidden_by()
        if self.reason:
            return self.module(*args, **kwargs), {}
        with EAGER, Observer(self.module, (args, kwargs)) as observer:
            result = self.module(*args, **kwargs)
        if self._wanted is None:
            chain, tensors = chosen(observer, self.module, result)
        else:
            chain, tensors = named(observer, self.module, self._wanted, result, strict=not self._chains)
        self.layouts = {key: layer.layout for key, layer in chain.layers.items()}
        self.reason = chain.reason
        others = [other for other in self._chains if not other.fits(observer.calls)]
        if len(others) < len(self._chains):  # the layers alternate: observe a different pass the next time
            self._delay += 1
        self._chains = [chain, *others]
        self.known_layouts |= self.layouts
        self._observed += 1
        self._install()
        for key, layer in chain.layers.items():
            if layer.layout.averaged and layer.point.call.side == "output":
                name, index = layer.point.call.module, layer.point.position
                calls = [activation.tensors[index] for activation in observer.outputs if activation.module == name]
                tensors[key] = _value(layer, calls)
        found = arranged({key: (self.layouts[key], tensor) for key, tensor in tensors.items()})
        sizes = _sizes((args, kwargs))
        # A batch of one does not say where the samples are.
        single = any(len(layer) == 1 for layer in found.values()) if found else any(1 in size for size in sizes)
        self._single = sizes if single else None
        return result, found

    def _install(self) -> None:
        """Install the hooks on all watched modules again: a module may have been replaced."""
        self.remove()
        modules = dict(self.module.named_modules())
        self._points = {}
        for layer in (layer for chain in self._chains for layer in chain.layers.values()):
            self._points[layer.point] = self._points.get(layer.point, False) or layer.overwritten
        for name, side in sorted(set().union(*(chain.watched for chain in self._chains))):
            if name not in modules:
                continue
            if side == "input":
                self._hooks.append(modules[name].register_forward_pre_hook(_InputTap(self, name), with_kwargs=True))
            else:
                self._hooks.append(modules[name].register_forward_hook(_OutputTap(self, name)))

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry no activations: these belong to the graph of one pass.
        return {**self.__dict__, "_captured": None}


def _sizes(inputs: object) -> list[torch.Size]:
    """The first two sizes of each input, one of which is the batch."""
    return [tensor.shape[:2] for tensor in tensors_in(inputs) if not tensor.is_nested]


class _InputTap:
    """A forward pre-hook that can be copied and pickled with its network."""

    def __init__(self, taps: Taps, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        self.taps.capture(self.name, "input", floats_in((args, kwargs)))


class _OutputTap:
    """A forward hook that can be copied and pickled with its network."""

    def __init__(self, taps: Taps, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.taps.capture(self.name, "output", read(module, output))


def _value(layer: Layer, calls: list[Tensor]) -> Tensor:
    """What the last call of a layer returned, or the mean over all: rates say more than the last spikes."""
    alike = len(calls) > 1 and all(call.shape == calls[0].shape for call in calls)
    return torch.stack(calls).mean(0) if layer.layout.averaged and alike else calls[-1]


def _hidden_by() -> str:
    """Why the data flow of a pass cannot be observed; empty if it can."""
    if torch._C._functorch.peek_interpreter_stack() is not None:
        return "the forward pass runs inside a transform of torch.func, which hides its data flow"
    if forward_ad._current_level >= 0:
        return "the forward pass is differentiated in forward mode, which the term is not"
    if torch._C._get_tracing_state() is not None:
        return "the forward pass is being traced by torch.jit"
    return ""
