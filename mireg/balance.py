"""How strongly the reward pushes, relative to the task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch._functorch.config
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from mireg.distributed import mean_norm, world_size


class GradientBalance:
    """Scales the reward so that its gradient is a set fraction of the task's.

    A fixed weight does not carry over from one network to the next: the gradient of the MI grows
    and shrinks by orders of magnitude with depth, width and how far the network has collapsed. So
    both gradients are measured over all parameters, and the reward is multiplied by
    ``|task gradient| / |reward gradient|``. The measurement takes one more backward pass; it is
    done at each of the first ``warmup`` steps, in which the ratio changes fast, and at every
    ``interval``-th step after, and is used from the following step on. Before anything is measured
    the task's gradient is taken to have norm 1.

    No value leaves the device. The task's part is what arrives at each parameter less the
    reward's known part, so gradient accumulation, clipping, loss scaling and data parallelism, all
    of which act elsewhere, do not disturb it. Under data parallelism both norms are those of the mean
    gradient over the ranks, exchanged at measured steps only, so that every rank has the same ratio.
    """

    def __init__(self, warmup: int = 20, interval: int = 10) -> None:
        self.warmup = warmup
        self.interval = interval
        self._ratio: Tensor | None = None
        self._measured: _Measurement | None = None
        _allow_second_backward()

    def due(self, step: int) -> bool:
        """Whether both gradients are measured at this step."""
        return step < self.warmup or step % self.interval == 0

    def __call__(self, reward: Tensor, weight: float, step: int, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The term to add to the task's loss: ``-weight * ratio * reward``.

        Args:
            reward: 0-dim, attached to the graph of the forward pass.
            weight: gradient norm of the term relative to the task's.
            step: of training, from 0.
            parameters: of the network; frozen ones are passed over.

        Raises:
            ValueError: if the parameters are sharded over the ranks.
        """
        self._settle()
        if self._ratio is not None and not self.due(step):
            return -weight * self._ratio * reward
        trained = [p for p in parameters if p.requires_grad]
        if any(hasattr(p, "device_mesh") for p in trained):  # a DTensor; its class is slow to import
            raise ValueError(
                "the term can't be balanced against the task where parameters are sharded (fully_shard): no rank has "
                "a whole gradient; wrap with balanced=False and a weight of your own"
            )
        gradients = torch.autograd.grad(-reward, trained, retain_graph=True, allow_unused=True)
        self._measured = _Measurement(trained, gradients)
        if self._ratio is None:
            self._ratio = 1 / self._measured.reward_norm
        scale = weight * self._ratio
        term = -scale * reward
        self._measured.watch(term, scale)
        return term

    def _settle(self) -> None:
        """Turn what the last measurement saw into the ratio in force."""
        if self._measured is not None and self._ratio is not None:
            self._ratio = self._measured.ratio(self._ratio)
            self._measured.close()
        self._measured = None

    def state_dict(self) -> dict[str, Any]:
        """The ratio in force, for a checkpoint taken between steps."""
        if world_size() == 1:  # where one rank alone may save, nothing can be exchanged
            self._settle()
        return {"ratio": self._ratio}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._ratio = state["ratio"]
        self._measured = None

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_ratio": self.state_dict()["ratio"], "_measured": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        _allow_second_backward()


def _allow_second_backward() -> None:
    """Let a network that is compiled from now on run backward twice, as a measured step does.

    A compiled backward pass otherwise gives away the buffers that it reads, and refuses the second one.
    """
    torch._functorch.config.donated_buffer = False


class _Measurement:
    """The task's gradient norm in the next backward pass, told apart from the reward's."""

    def __init__(self, parameters: list[nn.Parameter], gradients: tuple[Tensor | None, ...]) -> None:
        self._parameters = parameters
        self.reward_norm = self._norm(dict(enumerate(gradients))).clamp_min(SMALLEST)
        self._scale: Tensor | None = None
        self._factor: Tensor | None = None  # what the caller multiplied the term by, once known
        self._task: dict[int, Tensor | None] = {}  # by parameter
        self._observers = [_Observe(self, i, parameters[i], gradient) for i, gradient in enumerate(gradients)]

    def _norm(self, gradients: Mapping[int, Tensor | None]) -> Tensor:
        """Norm of the gradient, given by parameter, in data parallelism of its mean over the ranks."""
        if world_size() == 1:
            return get_total_norm([g for g in gradients.values() if g is not None]).float()
        found = [gradients.get(index) for index in range(len(self._parameters))]
        return mean_norm(
            [torch.zeros_like(p) if g is None else g for p, g in zip(self._parameters, found, strict=True)]
        )

    def watch(self, term: Tensor, scale: Tensor) -> None:
        """Observe the backward pass that ``term``, the reward times ``-scale``, takes part in."""
        self._scale = scale
        term.register_hook(self._set_factor)

    def _set_factor(self, gradient: Tensor) -> None:
        self._factor = gradient.detach()

    def close(self) -> None:
        """Take off the hooks of a backward pass that never came."""
        for observer in self._observers:
            observer.handle.remove()

    def arrived(self, index: int, gradient: Tensor, reward_gradient: Tensor | None) -> None:
        """Take in what one backward pass brought to one parameter."""
        task = gradient.detach().float()
        if self._factor is not None and self._scale is not None and reward_gradient is not None:
            task = task - self._factor * self._scale * reward_gradient.float()
        self._task[index] = torch.linalg.vector_norm(task) if world_size() == 1 else task

    def ratio(self, previous: Tensor) -> Tensor:
        """Task norm over reward norm; the previous ratio where the task's gradient never came."""
        if not self._task or self._factor is None:
            return previous
        task = self._norm(self._task) / self._factor.abs()
        return torch.where(task.isfinite() & (task > 0), task / self.reward_norm, previous)


class _Observe:
    """A hook on one parameter that fires once, before the gradient is accumulated."""

    def __init__(
        self, measurement: _Measurement, index: int, parameter: nn.Parameter, reward_gradient: Tensor | None
    ) -> None:
        self.measurement = measurement
        self.index = index
        self.reward_gradient = reward_gradient
        self.handle = parameter.register_hook(self)

    def __call__(self, gradient: Tensor) -> None:
        self.handle.remove()
        self.measurement.arrived(self.index, gradient, self.reward_gradient)


SMALLEST = 1e-12
"""A reward whose gradient is shorter than this is not blown up to the task's."""
