"""The wrapper that adds the term to a network."""

from __future__ import annotations

import functools
import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch._compile import _disable_dynamo

from mireg import estimators, schedules
from mireg.estimators import Estimator
from mireg.estimators.target import IGNORED
from mireg.layers import LayerSpec, Taps, tensors_in
from mireg.rows import output_for
from mireg.schedules import Schedule
from mireg.term import FROZEN, TARGET, MIRegularizer

LOGGER = logging.getLogger(__name__)

OWN = ("taps", "regularizer")
"""Attributes of the wrapper itself; all others are the network's."""

SHARED = (
    "_parameters",
    "_buffers",
    "_non_persistent_buffers_set",
    "_modules",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)
"""The network's registries, which the wrapper shares, so that all names are the network's own."""

WEIGHT = 4.0
"""Four times the task's gradient at the last layer, shared among all layers."""

DEFAULT_WEIGHT = schedules.Linear(start=WEIGHT, steps=schedules.STEPS)

UNUSED = 10
"""Passes without a use of the term, or uses whose gradient never arrives, after which the verdict says so."""

MOST_PASSES = 64
"""Most passes that count as one step, where it cannot be known that the optimizer took one."""


class MIRegularized(nn.Module):
    """A network with a loss term that rewards what its successive layers keep. Created by :func:`wrap`.

    It takes the network's arguments, returns exactly what the network returns, and has the same parameters, modules,
    buffers and state-dict keys under the same names. Reading, setting and deleting attributes acts on the network,
    except for the wrapper's own and names that start with an underscore. ``model.module`` is the network itself, whose
    type ``isinstance`` should ask for; of a network with a ``module`` of its own, it is that one.
    """

    _network: nn.Module

    def __init__(self, module: nn.Module, taps: Taps, regularizer: MIRegularizer) -> None:
        super().__init__()
        self.__dict__["_network"] = module  # not a submodule: it would prefix all names
        self._share()
        self.taps = taps
        self.regularizer = regularizer
        self._captured: dict[str, Tensor] | None = None
        self._outputs: list[torch.Size] = []
        self._passes = 0  # training passes since the last mi_loss()
        self._calls = 0  # calls of mi_loss() that counted as one step
        self._versions: int | None = None  # of the parameters, at the last mi_loss()
        self._norms: Tensor | None = None  # of the parameters, if their versions had not changed
        self._unused = 0  # terms since the last one whose gradient arrived
        self._gradient: Tensor | None = None  # of the last term: 1, or the loss scale
        self._replaced_at: int | None = None  # step of the schedule at which the weights were replaced since
        self._announced: set[str] = set()
        self._unwrapped = False

    def _share(self) -> None:
        for name in SHARED:
            self.__dict__[name] = self._network.__dict__[name]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the network; in training, store the outputs of its layers for :meth:`mi_loss`."""
        used = self.training and torch.is_grad_enabled() and self.regularizer.active
        if self._unwrapped or not used:  # keeps what an earlier training forward captured
            return self._network(*args, **kwargs)  # compiled, it must change nothing here that it reads
        return self._capture(*args, **kwargs)

    @_disable_dynamo  # never compiled while the term is on: it sees the tensors and gradients of the pass
    def _capture(self, *args: Any, **kwargs: Any) -> Any:
        self._passes += 1
        self._captured = None
        result, self._captured = self.taps.run_uncompiled(*args, **kwargs)
        self._outputs = [tensor.shape for tensor in tensors_in(result) if not tensor.is_nested]
        return result

    @_disable_dynamo  # its hooks and its state must not become constants of a compiled step
    def mi_loss(self, target: Tensor | None = None, *, ignore_index: int = IGNORED) -> Tensor:
        """Compute the term for the last training forward pass, to be added to the task loss.

        Args:
            target: the target that the layers are rewarded for keeping, on any device: integer classes (n,); values
                (n,) or (n, k), or of any shape that starts with n, matched position by position if every layer has
                these positions; or one class per position (n, positions ...), as for tokens and pixels. Values that
                are NaN are missing. Without a target, layers are rewarded for what they keep of the input alone.
            ignore_index: class of the rows to skip.

        Returns:
            0-dim tensor, already weighted and signed. A zero without a gradient if there is nothing to add: in
            eval mode, without gradients, at weight 0, or in a network with nothing to reward (see :attr:`verdict`).

        Raises:
            RuntimeError: in training, if there was no training forward pass since the last call, or after
                :meth:`unwrap`.
            ValueError, TypeError: if the target does not fit the rows of the layers.
        """
        if self._unwrapped:
            raise RuntimeError("the network was unwrapped, and this wrapper with it: call mireg.wrap() again")
        if not (self.training and torch.is_grad_enabled()):
            return self._zero()
        captured, self._captured = self._captured, None
        passes, self._passes = self._passes, 0
        active = self.regularizer.active  # as the forward pass saw it
        self._report_replaced()
        self._count_step()
        if not (active and self.regularizer.active):
            self.regularizer.start_at(self.regularizer.steps + 1)
            self._announce()
            return self._zero()
        if not passes:
            raise RuntimeError(
                "mi_loss() has nothing to work on: call it once after each forward of the wrapped model, made in "
                "training mode (model.train()), outside torch.no_grad(), and through the wrapper, not the bare module"
            )
        try:
            term = self.regularizer.step(
                captured or {},
                target,
                self.taps.known_layouts,
                outputs=output_for(self._outputs, target),
                ignore_index=ignore_index,
                samples_second=self._has_samples_second(captured or {}),
            )
        except (TypeError, ValueError):  # of the target, which may be corrected
            self._captured, self._passes = captured, passes
            raise
        self._announce()
        if term is None or not term.requires_grad:
            return self._zero()
        self._unused += 1
        term.register_hook(self._on_gradient)
        return term

    @property
    def verdict(self) -> str:
        """Whether the term is active, on which layers, and why, in one sentence."""
        regularizer, chain = self.regularizer, self.taps.chain
        if self._unwrapped:
            return "inactive: the network was unwrapped"
        if not regularizer.active:
            if regularizer.weight(0) == 0:
                return "inactive: its weight is 0"
            return f"inactive: its weight has fallen to 0 by step {regularizer.steps}; model.restart() starts it again"
        if self._passes >= UNUSED:
            return f"inactive: mi_loss() was not called in the last {self._passes} training passes"
        if self.taps.reason:
            return f"inactive: {self.taps.reason}"
        if not chain:
            return "not known yet: no training forward has run"
        if not (regularizer.note or regularizer.terms):
            return "not known yet: mi_loss() has not been called"
        if regularizer.note:
            return f"inactive at the last step: {regularizer.note}"
        if regularizer.acts is not None and not regularizer.acts.item():
            return "inactive at the last step: the layers lost nothing of the input, and no target tells rows apart"
        if self._unused >= UNUSED:
            return f"inactive: {NOT_ADDED}"
        factor = 1.0 if self._gradient is None else self._gradient.item()
        if factor == 0:
            return "inactive at the last step: it was multiplied by 0; add what mi_loss() returns"
        if factor < 0:
            return "inverted: its sign was changed, and information is punished; add what mi_loss() returns"
        what = "the target and the input"
        if regularizer.counted is None:
            what = "the input"
        elif not regularizer.counted.item():
            what = "the input alone (the target tells too few rows apart)"
        elif regularizer.seen is not None and not regularizer.seen.item():
            what = "the input alone (no layer is seen to know of the target yet)"
        return (
            f"active: rewards information about {what} in {len(chain)} layers from {chain[0]!r} to {chain[-1]!r} "
            f"({regularizer.estimator.name})"
        )

    def mi_terms(self) -> dict[str, Tensor]:
        """The last estimates in nats, by ``"layer→target"`` or ``"input→layer"``: 0-dim, detached, unweighted."""
        return dict(sorted(self.regularizer.terms.items(), key=lambda item: item[0].endswith(f"→{TARGET}")))

    def restart(self) -> None:
        """Start the term's schedule again, for a new training of the same network."""
        self.regularizer.restart()
        self._versions, self._norms, self._announced = None, None, set()

    def unwrap(self) -> nn.Module:
        """Remove the hooks and return the original network; the wrapper is inactive afterwards."""
        self.taps.remove()
        self._captured, self._unwrapped = None, True
        return self._network

    def _count_step(self) -> None:
        """Repeat the step of the last call if the optimizer took none since: gradients of several passes add up.

        It took one if the weights changed. Their versions say so, unless it is fused or writes to ``weight.data``; then
        their norms do. After a backward pass whose gradients are gone, it is taken to have made a step.
        """
        trained, norms = self._trained(), None
        versions = _summed_versions(trained)
        same = versions == self._versions
        if same and self._unused == 0:  # after a backward pass
            same = any(p.grad is not None for p in trained)
            if same and self.regularizer.active:
                found = torch._foreach_norm([p.to_local() if hasattr(p, "to_local") else p.detach() for p in trained])
                norms = torch.stack([norm.to(found[0].device, torch.float32) for norm in found])
                same = self._norms is None or torch.equal(norms, self._norms)
        self._versions, self._norms = versions, norms
        self._calls = self._calls + 1 if same and self._calls < MOST_PASSES else 1
        if self._calls > 1:
            self.regularizer.start_at(self.regularizer.steps - 1)

    def _has_samples_second(self, captured: Mapping[str, Tensor]) -> bool:
        """Whether the network's output is (positions, samples, ...); where its shape does not tell, its last layer."""
        if not captured:
            return False
        name, last = list(captured.items())[-1]
        ends = tuple(self._outputs[0][:2]) if len(self._outputs) == 1 else ()
        if len(set(ends)) == 2 and len(last) in ends:
            return ends[1] == len(last)
        return self.taps.known_layouts[name].batch == 1

    def _report_replaced(self) -> None:
        """Log once that the weights were replaced in the middle of the schedule, or after its end."""
        replaced_at, self._replaced_at = self._replaced_at, None
        regularizer, steps = self.regularizer, self.regularizer.steps
        used = regularizer.active or regularizer.weight(0) != 0
        if used and steps and steps == replaced_at and REPLACED not in self._announced:  # else it was moved since
            self._announced.add(REPLACED)
            LOGGER.warning(
                "mireg: %s at step %d of the term's schedule, which %s: for a new training call model.restart()",
                REPLACED,
                steps,
                "goes on" if regularizer.active else "is over",
            )

    def _trained(self) -> list[nn.Parameter]:
        parameters = nn.Module.parameters(self._network)  # all of them, whatever the network gives to an optimizer
        return [p for p in parameters if p.requires_grad and not p.is_inference()]

    def _on_gradient(self, gradient: Tensor) -> None:
        self._unused, self._gradient = 0, gradient.detach()

    def _announce(self) -> None:
        """Log the verdict when it changes; also warn if the term cannot act."""
        regularizer, reason = self.regularizer, self.taps.reason
        if regularizer.active and regularizer.note == FROZEN:  # a small batch, as the last of an epoch, is no fault
            reason = reason or FROZEN
        if regularizer.active and self._unused >= UNUSED:
            reason = reason or NOT_ADDED
        kind = reason or regularizer.note or f"{regularizer.active} {regularizer.counted is None}"
        if kind in self._announced:
            return
        self._announced.add(kind)
        LOGGER.info("mireg: %s", self.verdict)
        if reason:
            warnings.warn(f"the MI term adds nothing: {reason}", stacklevel=5)

    def _zero(self) -> Tensor:
        parameter = next(self.parameters(), None)
        return torch.zeros((), device=None if parameter is None else parameter.device)

    # What acts on the network as a whole acts on the network itself, which may override it; see also DELEGATED.

    @property
    def module(self) -> nn.Module:
        """The network; or its own submodule of that name, as of ``DistributedDataParallel``."""
        own = self._modules.get("module")
        return self._network if own is None else own

    @property
    def training(self) -> bool:
        return self._network.training

    @training.setter
    def training(self, mode: bool) -> None:
        if "_network" in self.__dict__:
            self._network.training = mode

    def train(self, mode: bool = True) -> MIRegularized:
        self._network.train(mode)
        return self

    def apply(self, fn: Callable[[nn.Module], None]) -> MIRegularized:
        before = _summed_versions(self._trained())
        self._network.apply(fn)
        if _summed_versions(self._trained()) != before:
            self._replaced_at = self.regularizer.steps
        return self

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> MIRegularized:
        self._network._apply(fn, recurse)
        return self

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self._network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], *args: Any, **kwargs: Any) -> Any:
        self._replaced_at = self.regularizer.steps
        return self._network.load_state_dict(state_dict, *args, **kwargs)

    def _replicate_for_data_parallel(self) -> MIRegularized:
        raise TypeError(NO_COPIES)

    def _load_from_state_dict(self, *args: Any) -> None:
        self._replaced_at = self.regularizer.steps
        self._network._load_from_state_dict(*args)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name in OWN:
                raise
            return getattr(self._network, name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "training" or self._is_own(name):
            super().__setattr__(name, value)
        else:
            setattr(self._network, name, value)

    def __delattr__(self, name: str) -> None:
        if self._is_own(name):
            super().__delattr__(name)
        else:
            delattr(self._network, name)

    def _is_own(self, name: str) -> bool:
        """Whether an attribute belongs to the wrapper, not the network; reads and writes agree on this."""
        return name in OWN or name.startswith("_") or hasattr(type(self), name)

    def __getitem__(self, key: Any) -> Any:
        return self._network[key]  # type: ignore[index]  # a network without indexing raises its own error

    def __setitem__(self, key: Any, value: nn.Module) -> None:
        self._network[key] = value  # type: ignore[operator]

    def __delitem__(self, key: Any) -> None:
        del self._network[key]  # type: ignore[operator]
        self._share()  # of an nn.Sequential, the modules are now in another dict

    def __len__(self) -> int:
        return len(self._network)  # type: ignore[arg-type]

    def __iter__(self) -> Iterator[Any]:
        return iter(self._network)  # type: ignore[call-overload, no-any-return]

    def __bool__(self) -> bool:
        return True

    def __getstate__(self) -> dict[str, Any]:
        # Copies and pickles carry no activations: these belong to the graph of one pass.
        state = {
            **self.__dict__,
            "_captured": None,
            "_passes": 0,
            "_gradient": None,
            "_versions": None,
            "_norms": None,
        }
        return {name: value for name, value in state.items() if name not in SHARED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._share()
        super().__setstate__({})  # type: ignore[no-untyped-call]


def _summed_versions(parameters: Sequence[nn.Parameter]) -> int:
    """A number that changes with the parameters."""
    return sum(parameter._version for parameter in parameters)


DELEGATED = (
    *("parameters", "named_parameters", "buffers", "named_buffers", "zero_grad", "requires_grad_", "eval"),
    *("to", "cpu", "cuda", "half", "bfloat16", "float", "double"),
)
"""Methods that act on the network alone, and return the wrapper where they return the network."""


def _delegated(name: str) -> Callable[..., Any]:
    @functools.wraps(getattr(nn.Module, name))
    def method(self: MIRegularized, *args: Any, **kwargs: Any) -> Any:
        result = getattr(self._network, name)(*args, **kwargs)
        return self if result is self._network else result

    return method


for _name in DELEGATED:
    setattr(MIRegularized, _name, _delegated(_name))

NO_COPIES = (
    "nn.DataParallel runs copies of the network, whose layers are out of reach: use DistributedDataParallel, or wrap "
    "the network and train it on one device"
)

REPLACED = "the weights were replaced"

NOT_ADDED = "its gradient never arrives: add what mi_loss() returns to the loss that goes backward"


def wrap(
    module: nn.Module,
    layers: LayerSpec = "auto",
    estimator: str | Estimator = "usable",
    weight: float | Schedule = WEIGHT,
    *,
    steps: int | None = None,
    samples: int = 128,
    gather: bool = False,
) -> MIRegularized:
    """Add a loss term to a network that rewards the information its successive layers keep.

    Args:
        module: the network; it is not copied.
        layers: ``"auto"`` (successive layers in execution order, from the input on, without the output head), module
            names, globs such as ``"layer*.*"``, module types, a predicate of (name, module), or a list of these.
        estimator: a name from :func:`mireg.estimators.names`, or an estimator.
        weight: weight of the term: a number, which falls to 0 over ``steps`` steps of the optimizer, or a schedule
            over steps. It is relative to the task's gradient at the last layer (:class:`mireg.MIRegularizer`), so that
            one default suits every network. A factor on the term in the loss would be compensated: change the weight
            instead. At 0, losses, gradients and random numbers are bit-identical to those without the wrapper.
        steps: by default 400; not for a schedule.
        samples: number of rows that the estimate uses, spread over each batch; with a class per position, four times
            as many positions.
        gather: in data-parallel training, estimate on the rows of all ranks together, with gradients, instead
            of on each rank's own.

    Returns:
        The wrapped network: train it with ``loss = criterion(model(x), y) + model.mi_loss(y)``.

    Raises:
        ValueError: if the estimator is unknown or not differentiable, a pattern matches no module, the weight is
            negative or not finite, or the network has an attribute that the wrapper would hide.
        TypeError: if ``module`` is not a module, or it or a part of it is already wrapped, or an option has another
            type.

    Source: Hodas & Stinis, Doing the impossible: why neural networks can be trained at all, Frontiers
    in Psychology 9:1185, 2018, for the role of MI between layers; Xu et al., A theory of usable information
    under computational constraints, ICLR 2020, for the default estimator. Rewarding it in the loss is this library's
    step.

    >>> import torch, mireg
    >>> model = mireg.wrap(torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 2)))
    >>> x, y = torch.randn(16, 4), torch.randint(2, (16,))
    >>> loss = torch.nn.functional.cross_entropy(model(x), y) + model.mi_loss(y)
    >>> loss.backward()
    >>> list(model.mi_terms())
    ['input→1', 'input→target', '1→target']
    """
    if not isinstance(module, nn.Module):
        raise TypeError(f"wrap() takes a torch.nn.Module, not {type(module).__name__}")
    for name, part in module.named_modules():
        if isinstance(part, torch.jit.ScriptModule):
            raise TypeError(
                f"{name or 'the network'} is scripted or traced and lets nobody see its layers: wrap the module that "
                "it was made of"
            )
        if isinstance(part, MIRegularized):
            raise TypeError(f"{name or 'the network'} is wrapped already: call unwrap() first")
    if isinstance(module, nn.DataParallel):
        raise TypeError(NO_COPIES)
    hidden = [name for name in PUBLIC if hasattr(module, name)]
    if hidden:
        raise ValueError(
            f"the network has {', '.join(hidden)}, which the wrapper has as well: rename it in {type(module).__name__}"
        )
    if isinstance(estimator, str):
        estimator = estimators.get(estimator)
    if not isinstance(estimator, Estimator):
        raise TypeError(f"estimator={estimator!r}: give a name or an instance, such as mireg.estimators.KDE()")
    schedule = schedules.as_schedule(weight, steps)
    regularizer = MIRegularizer(estimator.for_training(), schedule, samples=samples, gather=gather)
    return MIRegularized(module, Taps(module, layers), regularizer)


PUBLIC = ("taps", "regularizer", "mi_loss", "mi_terms", "verdict", "restart", "unwrap")
"""Names of the wrapper that no network may have."""
