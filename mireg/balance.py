"""How the reward pushes: in every direction alike, and as strongly as the task."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn

from mireg.directions import Direction, directions, fits, push
from mireg.distributed import mean_over_ranks, world_size
from mireg.estimators.base import in_full_precision


class GradientBalance:
    """Turns the reward's gradient into a push that no network makes too strong or too narrow.

    A fixed weight does not carry over from one network to the next: the gradient of the MI grows
    and shrinks by orders of magnitude with depth, width and how far the network has collapsed. And
    where little signal is left, its gradient amplifies the leading direction alone, and the layers
    come back with features of rank one. Two measures, per parameter:

    - **Direction.** The gradient of a weight is replaced by its orthogonal factor (U V^T of its singular
      value decomposition), which raises all directions alike.
    - **Length.** ``weight`` times the length of the task's gradient of that parameter, or of the root mean
      square over all parameters where that is larger: layers that the task does not reach are the
      ones that need the push.

    Directions and lengths are found at every ``interval``-th use, by one more backward pass, and held
    in between. Before any task gradient was seen, it is taken to have norm 1. No value leaves the
    device. What the task brought is told apart from the push as the gradient arrives at each
    parameter, so that accumulation, clipping, loss scaling and data parallelism, which act elsewhere,
    do not disturb it. Several terms in one backward pass share its length. In data-parallel training the
    mean over ranks takes the gradients' place, exchanged when they are found, so that every rank
    pushes alike.

    Source: Jordan et al., Muon: an optimizer for hidden layers in neural networks, 2024, for the
    orthogonal factor by Newton-Schulz iteration; Chen et al., GradNorm, ICML 2018, for balancing by
    gradient norms.
    """

    def __init__(self, interval: int = 2) -> None:
        self.interval = interval
        self._directions: list[Direction | None] | None = None
        self._lengths: Tensor | None = None  # of the task's gradient, by parameter
        self._round = _Round()
        _allow_second_backward()

    def due(self, use: int) -> bool:
        """Whether directions are found anew at this use of the term, and a reward is needed."""
        return use % self.interval == 0 or self._directions is None

    def __call__(
        self, value: Tensor, reward: Tensor | None, weight: float, parameters: Iterable[nn.Parameter]
    ) -> Tensor:
        """The term to add to the task's loss.

        Args:
            value: 0-dim, what the term reads as.
            reward: 0-dim, attached to the graph of the forward pass; None where none is due.
            weight: length of the push relative to the task's gradient.
            parameters: of the network, the same ones in the same order at each call; those that are frozen at the time,
                or came in place of others, are passed over until directions are found anew.

        Returns:
            0-dim tensor equal to ``value``, whose gradient is the push.

        Raises:
            ValueError: if no parameter is trained, or they are sharded over the ranks.
        """
        parameters = list(parameters)
        trained = [p for p in parameters if p.requires_grad]
        if not trained:
            raise ValueError("no parameter is trained: there is nothing to push")
        if any(hasattr(p, "device_mesh") for p in trained):  # a DTensor; its class is slow to import
            raise ValueError(
                "the term can't be balanced against the task where parameters are sharded (fully_shard): no rank has "
                "a whole gradient; wrap with balanced=False and a weight of your own"
            )
        if self._round.over:
            self._settle()
        if reward is not None:
            with in_full_precision(reward):  # autocast would take all of this, too, to half precision
                found = iter(torch.autograd.grad(-reward, trained, retain_graph=True, allow_unused=True))
                gradients = [next(found) if p.requires_grad else None for p in parameters]
                self._directions = directions(mean_over_ranks(gradients, parameters))
        if self._directions is None:
            raise RuntimeError("the first use of the term needs a reward")
        if len(self._directions) != len(parameters):
            self._directions = [None] * len(parameters)
        if self._lengths is None or len(self._lengths) != len(parameters):
            self._lengths = torch.full((len(parameters),), len(trained) ** -0.5, device=trained[0].device)
        lengths = weight * torch.maximum(self._lengths, (self._lengths.square().sum() / len(trained)).sqrt())
        pushed = [
            direction if direction is not None and p.requires_grad and fits(direction, p) else None
            for p, direction in zip(parameters, self._directions, strict=True)
        ]
        term: Tensor = _Term.apply(value, self._round, lengths, pushed, *parameters)
        if reward is not None:
            self._round.watch(parameters)
        return term

    def _settle(self) -> None:
        """Take over the task's gradient lengths that the last watched backward pass showed."""
        if self._lengths is not None:
            self._lengths = self._round.lengths(self._lengths)
        self._round.close()
        self._round = _Round()

    def release(self) -> None:
        """Forget the directions, which take memory."""
        self._settle()
        self._directions = None

    def close(self) -> None:
        """Leave no hook on any parameter; the balance is of no further use."""
        self._round.close()
        self._directions = None

    def state_dict(self) -> dict[str, Any]:
        """Directions and lengths in force, for a checkpoint taken between steps."""
        if world_size() == 1:  # else the ranks must exchange, and one of them alone may be saving
            self._settle()
        return {"directions": self._directions, "lengths": self._lengths}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._directions, self._lengths = state["directions"], state["lengths"]
        self._round = _Round()

    def __getstate__(self) -> dict[str, Any]:
        state = self.state_dict()
        return {**self.__dict__, "_directions": state["directions"], "_lengths": state["lengths"], "_round": _Round()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _allow_second_backward()


class _Term(torch.autograd.Function):
    """A number whose gradient is given."""

    @staticmethod
    def forward(
        ctx: Any,
        value: Tensor,
        of: _Round,
        lengths: Tensor,
        pushed: list[Direction | None],
        *parameters: nn.Parameter,
    ) -> Tensor:
        ctx.round, ctx.lengths, ctx.pushed = of, lengths, pushed
        ctx.like = [(p.shape, p.dtype) for p in parameters]
        return value.clone()

    @staticmethod
    def backward(ctx: Any, *factor: Tensor) -> tuple[Tensor | None, ...]:
        with in_full_precision(factor[0]):
            lengths = (factor[0] * ctx.lengths).unbind()
            pushes = [
                None if direction is None else push(direction, length).to(dtype).view(shape)
                for length, direction, (shape, dtype) in zip(lengths, ctx.pushed, ctx.like, strict=True)
            ]
        ctx.round.feel(factor[0], pushes)
        return None, None, None, None, *pushes


class _Round:
    """The terms up to the next backward pass, and the task's gradient in it, told apart from their pushes."""

    def __init__(self) -> None:
        self.over = False  # whether the backward pass has come
        self._parameters: list[nn.Parameter] = []
        self._task: list[Tensor | None] = []
        self._hooks: list[_Arrival] = []
        self._felt: list[tuple[Tensor, list[Tensor | None]]] = []

    def watch(self, parameters: list[nn.Parameter]) -> None:
        """Look at what the backward pass brings to each parameter, if that is not done already."""
        if not self._hooks:
            self._parameters = parameters
            self._task = [None] * len(parameters)
            self._hooks = [_Arrival(self, index, p) for index, p in enumerate(parameters) if p.requires_grad]

    def feel(self, factor: Tensor, pushes: list[Tensor | None]) -> None:
        """Take note of a push, and of what the caller multiplied its term by; it comes before any gradient does."""
        self.over = True
        if self._hooks and all(task is None for task in self._task):
            self._felt.append((factor.detach(), pushes))

    def arrived(self, index: int, gradient: Tensor) -> None:
        """Take in what the backward pass brought to one parameter, less the pushes."""
        felt = [push for _, pushes in self._felt if (push := pushes[index]) is not None]
        task = gradient.detach() if felt else gradient.detach().clone()  # the optimizer may change it in place
        for push in felt:
            task = task - push
        self._task[index] = task

    def lengths(self, previous: Tensor) -> Tensor:
        """Lengths by parameter, 0 where nothing came; the previous ones where no usable gradient came at all."""
        if not self._felt or all(task is None for task in self._task):
            return previous
        task = mean_over_ranks(self._task, self._parameters)
        zero = torch.zeros_like(previous[0])
        found = torch.stack([zero if t is None else torch.linalg.vector_norm(t.float()) for t in task])
        found = found / torch.stack([factor.abs().float() for factor, _ in self._felt]).sum()
        return torch.where(found.isfinite().all() & (found > 0).any(), found, previous)

    def close(self) -> None:
        """Let go of everything, the hooks that nothing arrived at included."""
        for hook in self._hooks:
            hook.handle.remove()
        self._hooks, self._task, self._felt, self._parameters = [], [], [], []


class _Arrival:
    """A hook on one parameter that fires once, before the gradient is accumulated."""

    def __init__(self, of: _Round, index: int, parameter: nn.Parameter) -> None:
        self.round = of
        self.index = index
        self.handle = parameter.register_hook(self)

    def __call__(self, gradient: Tensor | None) -> None:
        if gradient is None:  # a backward pass of the term alone, which does not push this parameter
            return
        self.handle.remove()
        self.round.arrived(self.index, gradient)


def _allow_second_backward() -> None:
    """Let a network that is compiled from now on run backward twice, as finding directions does.

    A compiled backward pass otherwise gives away the buffers that it reads, and refuses the second one.
    """
    torch._functorch.config.donated_buffer = False
