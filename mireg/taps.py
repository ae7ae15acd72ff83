"""Which layer outputs are caught, and when."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from mireg.layers import INPUT, LayerSpec, Observer, first_float, match


class Taps:
    """Catches the outputs of the chosen layers during a forward pass, in execution order.

    A tap is a forward hook that stores a reference; it copies nothing and changes nothing. With
    ``layers="auto"`` the first observed pass chooses the layers, later ones reuse the choice. A
    layer that runs more than once in a pass is caught each time, as ``name``, ``name#2``, ...

    Args:
        module: the network.
        layers: see :data:`mireg.layers.LayerSpec`; ``"input"`` in a list adds the network's input.

    Raises:
        ValueError: if a pattern matches nothing, or fewer than 2 layers are selected.
    """

    def __init__(self, module: nn.Module, layers: LayerSpec = "auto") -> None:
        self.module = module
        self.names: list[str] | None = None
        self._hooks: list[RemovableHandle] = []
        self._caught: dict[str, Tensor] | None = None  # a dict during a pass, None outside
        if layers != "auto":
            self._install(_select(module, layers))

    def run(self, *args: Any, **kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        """Run the network and return what it returns, and the outputs of its layers by name.

        Raises:
            ValueError: if ``"auto"`` finds fewer than 2 layers in the network.
        """
        if self.names is None:
            found: tuple[Any, dict[str, Tensor]] = self._observe(args, kwargs)
            return found
        self._caught = {}
        try:
            if INPUT in self.names:
                self.catch(INPUT, (args, kwargs))
            result = self.module(*args, **kwargs)
            return result, self._caught
        finally:
            self._caught = None

    def catch(self, name: str, output: object) -> None:
        """Store a layer's output if a pass is being watched (recomputation in backward is not)."""
        tensor = first_float(output)
        if self._caught is None or tensor is None:
            return
        key, repeat = name, 1
        while key in self._caught:
            repeat += 1
            key = f"{name}#{repeat}"
        self._caught[key] = tensor

    def remove(self) -> None:
        """Take the hooks off the network."""
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()

    @torch.compiler.disable
    def _observe(self, args: Any, kwargs: Any) -> tuple[Any, dict[str, Tensor]]:
        with Observer(self.module, (args, kwargs)) as observer:
            result = self.module(*args, **kwargs)
        layers = observer.layers(result)
        if len(layers) < 2:
            raise ValueError(
                f"layers='auto' found {len(layers)} successive layers in {type(self.module).__name__}, at least 2 are "
                "needed: a path runs round every inner module; name the layers, as in layers=['input', 'block*']"
            )
        self._install(list(layers))
        return result, layers

    def _install(self, names: list[str]) -> None:
        self.names = names
        modules = dict(self.module.named_modules())
        self._hooks = [modules[name].register_forward_hook(_Tap(self, name)) for name in names if name != INPUT]

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry no activations: those belong to the graph of one pass.
        return {**self.__dict__, "_caught": None}


class _Tap:
    """A forward hook that can be copied and pickled together with its network."""

    def __init__(self, taps: Taps, name: str) -> None:
        self.taps = taps
        self.name = name

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        self.taps.catch(self.name, output)


def _select(module: nn.Module, layers: LayerSpec) -> list[str]:
    specs = [layers] if isinstance(layers, str) or not isinstance(layers, list | tuple) else list(layers)
    names = [INPUT] if INPUT in specs and INPUT not in dict(module.named_children()) else []
    rest = [spec for spec in specs if spec != INPUT or not names]
    names += match(module, rest) if rest else []
    if len(names) < 2:
        raise ValueError(
            f"layers={layers!r} selects {len(names)} layer ({', '.join(names)}): MI between successive layers needs "
            "at least 2; 'input' may be one of them"
        )
    return names
