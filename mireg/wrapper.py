"""The wrapper that adds the MI term to a network."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from mireg import schedules
from mireg.estimators import Estimator
from mireg.layers import LayerSpec, Taps
from mireg.regularizer import TARGET, MIRegularizer, for_training
from mireg.schedules import Schedule

LOGGER = logging.getLogger(__name__)

PREFIX = "module."

OWN = ("module", "taps", "regularizer", "training")
"""Attributes of the wrapper itself; all others are the network's."""

DEFAULT_WEIGHT = schedules.Linear(start=4.0, steps=400)
"""Four times the task's gradient at the last layer, shared among all layers, falling to zero over 400 steps."""


class MIRegularized(nn.Module):
    """A network with a loss term that rewards the information in its successive layers. Created by :func:`wrap`.

    It takes the network's arguments, returns exactly what the network returns, and has the same parameters and
    state-dict keys. Reading, setting and deleting attributes acts on the network, except for attributes that every
    module has, the wrapper's own, and names that start with an underscore.
    """

    def __init__(self, module: nn.Module, taps: Taps, regularizer: MIRegularizer) -> None:
        super().__init__()
        self.module = module
        self.taps = taps
        self.regularizer = regularizer
        self.training = module.training
        self._ran = False  # a training forward since the last mi_loss()
        self._caught: dict[str, Tensor] | None = None
        self._announced = ""
        self.register_state_dict_post_hook(_strip_prefix)  # type: ignore[no-untyped-call]
        self.register_load_state_dict_pre_hook(_add_prefix)  # type: ignore[no-untyped-call]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network; in training, store the outputs of its layers for :meth:`mi_loss`."""
        if not (self.training and self.module.training and torch.is_grad_enabled()):
            return self.module(*args, **kwargs)  # keeps what an earlier training forward captured
        self._ran, self._caught = True, None
        if not self.regularizer.active:
            return self.module(*args, **kwargs)
        if self.taps.layouts is None:  # called here, not in run(), this is a single graph break, and only once
            result, self._caught = self.taps.observe(*args, **kwargs)
        elif self.regularizer.look:
            result, self._caught = self.taps.run_uncompiled(*args, **kwargs)
        else:
            result, self._caught = self.taps.run(*args, **kwargs)
        return result

    @_disable_dynamo  # its hooks and its state must not become constants of a compiled step
    def mi_loss(self, target: Tensor | None = None) -> Tensor:
        """Compute the term for the last training forward pass, to be added to the task loss.

        Args:
            target: the target that the layers are rewarded for encoding, on any device: integer classes (n,); values
                (n,) or (n, k), or of any shape that starts with n, matched position by position if every layer has
                these positions; or one class per position (n, positions ...), as for tokens and pixels, where -100 is
                skipped. Without a target, each layer is rewarded for the information it keeps from the previous layer,
                with a hundredth of the weight.

        Returns:
            0-dim tensor, already weighted and signed. A zero without a gradient if there is nothing to add: in
            eval mode, without gradients, at weight 0, or in a network with nothing to reward (see :attr:`verdict`).

        Raises:
            RuntimeError: in training, if there was no training forward pass since the last call.
            ValueError: if the target does not fit the rows of the layers.
        """
        if not (self.training and self.module.training and torch.is_grad_enabled()):
            return self._zero()
        caught, self._caught = self._caught, None
        ran, self._ran = self._ran, False
        if not self.regularizer.active:
            self.regularizer.skip()
            return self._zero()
        if not ran:
            raise RuntimeError(
                "mi_loss() has nothing to work on: call it once after each forward of the wrapped model, made in "
                "training mode (model.train()), outside torch.no_grad(), and through the wrapper, not the bare module"
            )
        if not caught:
            self._announce()
            self.regularizer.skip()
            return self._zero()
        term = self.regularizer.step(caught, target, self.taps.known_layouts)
        self._announce()
        return self._zero() if term is None else term

    @property
    def verdict(self) -> str:
        """Whether the term is active, on which layers, and why, in one sentence."""
        regularizer = self.regularizer
        if regularizer.weight(regularizer.steps) == 0:
            if regularizer.weight(0) != 0:
                return f"inactive: its weight has fallen to 0 by step {regularizer.steps}"
            return "inactive: its weight is 0"
        if self.taps.reason:
            return f"inactive: {self.taps.reason}"
        if not self.taps.chain:
            return "not known yet: no training forward has run"
        if regularizer.note:
            return f"inactive at the last step: {regularizer.note}"
        chain = self.taps.chain
        about = any(name.endswith(f"→{TARGET}") for name in regularizer.terms)
        what = "the target" if about else "the layer before" if regularizer.terms else "the target, if it is given one,"
        return (
            f"active: rewards information about {what} in {len(chain)} layers from {chain[0]!r} to {chain[-1]!r} "
            f"({regularizer.estimator.name})"
        )

    def _announce(self) -> None:
        """Log the verdict when it changes; also warn if the term cannot act at all."""
        reason = self.taps.reason
        verdict = reason or self.regularizer.note or self.verdict
        if verdict != self._announced:
            self._announced = verdict
            LOGGER.info("mireg: %s", self.verdict)
            if reason:
                warnings.warn(f"the MI term adds nothing: {reason}", stacklevel=5)

    def mi_terms(self) -> dict[str, Tensor]:
        """The last estimates in nats, by ``"layer→target"`` or ``"layer_a→layer_b"``: 0-dim, detached, unweighted."""
        return dict(self.regularizer.terms)

    def unwrap(self) -> nn.Module:
        """Remove the hooks and return the original network; the wrapper must not be used afterwards."""
        self.taps.remove()
        self._caught = None
        return self.module

    def _zero(self) -> Tensor:
        parameter = next(self.module.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "module":
                raise
            return getattr(self.module, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if self._is_own(name):
            super().__setattr__(name, value)
        else:
            setattr(self.module, name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_own(name):
            super().__delattr__(name)
        else:
            delattr(self.module, name)

    def _is_own(self, name: str) -> bool:
        """Whether an attribute belongs to the wrapper, not the network; reads and writes agree on this."""
        return name in OWN or name.startswith("_") or hasattr(type(self), name)

    def __getitem__(self, key: Any) -> Any:
        return self.module[key]  # type: ignore[index]  # a network without indexing raises its own error

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry no activations: these belong to the graph of one pass.
        return {**self.__dict__, "_caught": None, "_ran": False}


def wrap(
    module: nn.Module,
    layers: LayerSpec = "auto",
    estimator: str | Estimator = "usable",
    weight: float | Schedule = DEFAULT_WEIGHT,
    *,
    samples: int = 128,
    every: int = 1,
    gather: bool = False,
) -> MIRegularized:
    """Add a loss term to a network that rewards the information in its successive layers.

    Args:
        module: the network; it is not copied.
        layers: ``"auto"`` (successive layers in execution order, from the input on, without the output head), module
            names, globs such as ``"layer*.*"``, module types, a predicate of (name, module), or a list of these.
        estimator: a name from :func:`mireg.estimators.names`, or an estimator.
        weight: weight of the term, a number or a schedule over steps. It is relative to the task's gradient at the last
            layer (see :class:`mireg.MIRegularizer`), so that one default suits every network. A factor on the term in
            the loss would be compensated: change the weight instead. At 0, losses, gradients
            and random numbers are bit-identical to those without the wrapper.
        samples: number of rows that the estimate uses, the first of each batch; with a class per position, four times
            as many positions.
        every: use the term at every ``every``-th step; nothing is captured in between.
        gather: in data-parallel training, estimate on the rows of all ranks together, with gradients, instead
            of on each rank's own.

    Returns:
        The wrapped network: train it with ``loss = criterion(model(x), y) + model.mi_loss(y)``.

    Raises:
        ValueError: if the estimator is unknown or not differentiable, a pattern matches no module, or the weight is
            negative or not finite.
        TypeError: if ``module`` is not a module, or is already wrapped.

    Source: Hodas & Stinis, Doing the impossible: why neural networks can be trained at all, Frontiers
    in Psychology 9:1185, 2018, for the role of MI between layers; Xu et al., A theory of usable information
    under computational constraints, ICLR 2020, for what is rewarded. Rewarding it in the loss is this library's step.

    >>> import torch, mireg
    >>> model = mireg.wrap(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    >>> x, y = torch.randn(16, 4), torch.randint(2, (16,))
    >>> loss = torch.nn.functional.cross_entropy(model(x), y) + model.mi_loss(y)
    >>> loss.backward()
    >>> list(model.mi_terms())
    ['input→target', '1→target']
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"wrap() takes a torch.nn.Module, not {type(module).__name__}")
    if isinstance(module, MIRegularized):
        raise TypeError("the network is wrapped already: call unwrap() first")
    if isinstance(estimator, str):
        estimator = for_training(estimator)
    regularizer = MIRegularizer(estimator, schedules.as_schedule(weight), samples=samples, every=every, gather=gather)
    return MIRegularized(module, Taps(module, layers), regularizer)


def _strip_prefix(module: nn.Module, state: dict[str, Any], prefix: str, local_metadata: dict[str, Any]) -> None:
    _rename(state, prefix + PREFIX, prefix)


def _add_prefix(
    module: nn.Module,
    state: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: Any,
    missing: Any,
    unexpected: Any,
    errors: Any,
) -> None:
    _rename(state, prefix, prefix + PREFIX)


def _rename(state: dict[str, Any], old: str, new: str) -> None:
    """Replace a prefix of the keys in place, keeping their order."""
    for key in list(state):
        value = state.pop(key)
        state[new + key.removeprefix(old) if key.startswith(old) else key] = value
