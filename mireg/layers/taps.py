"""Which layer outputs are caught, and when."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mireg.layers.layout import Layout
from mireg.layers.observe import OUTPUT, Observer, repeated
from mireg.layers.select import INPUT, LayerSpec, select
from mireg.layers.values import first_float, read


class Taps:
    """Catches the outputs of the chosen layers during a forward pass, in execution order.

    A tap is a forward hook that stores a reference; it copies nothing (but an output that the network
    overwrites) and changes nothing. The first pass is observed: it chooses the layers of
    ``layers="auto"`` and tells where each has its samples and channels; later ones reuse what it
    found. A layer that runs more than once in a pass is caught each time, as ``name``, ``name#2``, ...

    Args:
        module: the network.
        layers: see :data:`mireg.layers.LayerSpec`; ``"input"`` in a list adds the network's input.

    Raises:
        ValueError: if a pattern matches nothing, or fewer than 2 layers are selected.
    """

    def __init__(self, module: nn.Module, layers: LayerSpec = "auto") -> None:
        self.module = module
        self._wanted = None if layers == "auto" else select(module, layers)
        self.layouts: dict[str, Layout] | None = None  # once a pass has been observed
        self._hooks: list[RemovableHandle] = []
        self._caught: dict[str, Tensor] | None = None  # a dict during a pass, None outside
        self._calls: dict[str, int] = {}  # of each module, in the pass under way

    @property
    def names(self) -> list[str]:
        """The layers, in execution order; with ``"auto"`` none before the first pass."""
        return list(self.layouts if self.layouts is not None else self._wanted or [])

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Run the network and return what it returns, and the outputs of its layers by name.

        Returns:
            The network's own result, and a dict of (n, channels, positions ...) tensors.

        Raises:
            ValueError: in the first pass, if ``"auto"`` finds fewer than 2 layers in the network, or a
                chosen layer does not run or has no samples in its rows.
        """
        if self.layouts is None:
            observed: tuple[Any, dict[str, Tensor]] = self.observe(*args, **kwargs)
            return observed
        self._caught, self._calls = {}, {}
        try:
            if INPUT in self.layouts:
                self._store({INPUT: first_float((args, kwargs))})
            result = self.module(*args, **kwargs)
            return result, {key: self.layouts[key].arrange(tensor) for key, tensor in self._caught.items()}
        finally:
            self._caught = None

    def catch(self, name: str, module: nn.Module, output: object) -> None:
        """Store a layer's output if a pass is being watched (recomputation in backward is not)."""
        if self._caught is None:
            return
        self._calls[name] = self._calls.get(name, 0) + 1
        self._store(read(repeated(name, self._calls[name]), module, output))

    def _store(self, tensors: dict[str, Tensor | None] | dict[str, Tensor]) -> None:
        assert self._caught is not None
        assert self.layouts is not None
        for key, tensor in tensors.items():
            if tensor is not None and key in self.layouts:
                self._caught[key] = tensor.clone() if self.layouts[key].overwritten else tensor

    def remove(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.compiler.disable
    def observe(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """The first :meth:`run`, never compiled: install the taps on what it finds."""
        with torch.compiler.set_stance("force_eager"), Observer(self.module, (args, kwargs)) as observer:
            result = self.module(*args, **kwargs)
        found = observer.layers(result) if self._wanted is None else observer.named(self._wanted, result)
        if len(found) < 2:
            raise ValueError(
                f"layers='auto' found {len(found)} successive layers in {type(self.module).__name__}, at least 2 are "
                "needed: a path runs round every inner module; name the layers, as in layers=['input', 'block*']"
            )
        self.layouts = {key: layout for key, (layout, _) in found.items()}
        modules = {OUTPUT: self.module, **dict(self.module.named_modules())}
        for name in observer.names(self.layouts):
            self._hooks.append(modules[name].register_forward_hook(_Tap(self, name)))
        return result, {key: layout.arrange(tensor) for key, (layout, tensor) in found.items()}

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry no activations: those belong to the graph of one pass.
        return {**self.__dict__, "_caught": None}


class _Tap:
    """A forward hook that can be copied and pickled together with its network."""

    def __init__(self, taps: Taps, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.taps.catch(self.name, module, output)
