"""The reward: from the outputs of successive layers to one term of the loss."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d

from mireg import estimators
from mireg.balance import GradientBalance
from mireg.distributed import gather, world_size
from mireg.estimators import Estimator
from mireg.estimators.base import as_matrices, check_samples
from mireg.finite import FiniteWatch
from mireg.schedules import Rescue, Schedule
from mireg.triage import SHARED_NOISE, is_needed

MAP_FEATURES = 64
"""Maps and sequences are average-pooled until channels times positions come near this number."""


class MIRegularizer:
    """Rewards the mutual information between successive layers.

    The reward is the mean, over successive pairs, of the estimated MI in nats; the term is ``-weight``
    times the reward. Balanced, its gradient is a push along the reward's, ``weight`` times as long as
    the task's (:class:`mireg.balance.GradientBalance`); else it is the plain gradient of the term.

    Args:
        estimator: any differentiable estimator. One that learns takes a step after each estimate, with its
            own optimizer; what it learns is in this state dict, not in the network's.
        weight: schedule over the calls that :meth:`step` counts; with a :class:`mireg.schedules.Rescue` the
            term stands aside for good if the network does not need it.
        samples: rows of the batch that the estimate uses, all where there are fewer: the first ones, since
            batches are shuffled and a leading slice is a view, the same rows of every layer.
        every: steps from one use of the term to the next; nothing is captured in between.
        balanced: whether the gradient is balanced against the task's or is that of plain nats.
        gather: in data-parallel training, estimate on the rows of all ranks, ``samples`` in all, instead of
            on each rank's own. Every rank must have as many rows as the others.
        shuffled: estimate between rows that do not belong together, which leaves every marginal
            as it is and no dependence to reward: the control that a real effect must beat.

    Attributes:
        needed: whether the network needs the term; None until the first use has judged it.
        terms: the last estimates, by pair.

    Raises:
        ValueError: if the estimator is not differentiable, or ``samples`` is below 2.
    """

    def __init__(
        self,
        estimator: Estimator,
        weight: Schedule,
        *,
        samples: int = 32,
        every: int = 1,
        balanced: bool = True,
        gather: bool = False,
        shuffled: bool = False,
    ) -> None:
        if not estimator.is_differentiable:
            raise ValueError(f"estimator {estimator.name!r} has no gradient: it can measure, not regularize")
        if samples < 2:
            raise ValueError(f"samples={samples}: an estimate needs at least 2 samples")
        if every < 1:
            raise ValueError(f"every={every}: the term is used at every step (1) or at every k-th")
        self.estimator = estimator
        self.weight = weight
        self.samples = samples
        self.every = every
        self.gather = gather
        self.shuffled = shuffled
        self.balance = GradientBalance() if balanced else None
        self.needed: bool | None = None if isinstance(weight, Rescue) else True
        self.terms: dict[str, Tensor] = {}
        self._last = torch.zeros(())  # the reward, as of the last step that captured
        self._warnings: set[str] = set()
        self._watch = FiniteWatch()
        self.start_at(0)

    def start_at(self, step: int) -> None:
        """Move to a step, as a run does that resumes with its step count alone.

        ``captures`` says whether the step needs the layers' outputs. It is a plain attribute, so that a
        compiled forward pass depends on nothing that changes at every step.
        """
        self.steps = step
        self.active = self.needed is not False and step % self.every == 0 and self.weight(step) != 0
        self.captures = self.active and (self.balance is None or self.balance.due(step // self.every))

    def step(self, layers: Mapping[str, Tensor] | None, parameters: Iterable[nn.Parameter]) -> Tensor:
        """The term for one training step: 0-dim, weighted and signed, to be added to the loss.

        Args:
            layers: outputs of successive layers in order, n rows each; None at a step that captures nothing.
            parameters: of the network, over which the term is balanced against the task.

        Raises:
            ValueError: if the weight is not a number at least 0.
        """
        weight = self.weight(self.steps)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"weight is {weight!r} at step {self.steps}: a schedule must give finite values of at least 0"
            )
        reward = None
        if layers is not None and self._too_few(layers):
            self._warn_once("a batch with a single sample says nothing of MI: the term rests at that step")
            self.start_at(self.steps + 1)
            return torch.zeros_like(self._last)
        if layers is not None:
            rows = self._rows(layers)
            if self.needed is None:
                self.needed = is_needed(rows)
            reward = self._reward(pairs(layers), rows)
        term = self._term(weight, reward, list(parameters)) if self.needed else torch.zeros_like(self._last)
        self.start_at(self.steps + 1)
        if self.balance is not None and not self.weight(self.steps):
            self.balance.release()
        return term

    def _too_few(self, layers: Mapping[str, Tensor]) -> bool:
        """Whether no estimate can be made, on all ranks together where they are gathered."""
        return len(next(iter(layers.values()))) * (world_size() if self.gather else 1) < 2

    def _rows(self, layers: Mapping[str, Tensor]) -> list[Tensor]:
        """What the estimate uses of each layer, as matrices."""
        ranks = world_size() if self.gather else 1
        chosen = [prepare(layer, max(1, self.samples // ranks)) for layer in layers.values()]
        if ranks > 1:
            chosen = gather(as_matrices(chosen))
        check_samples(chosen)
        return as_matrices(chosen)

    def _reward(self, names: list[str], rows: list[Tensor]) -> Tensor:
        if self.shuffled:
            rows = [layer[torch.randperm(len(layer), device=layer.device)] for layer in rows]
        information = self.estimator.estimate(rows)
        if information.requires_grad:
            self.estimator.learn(information)
        if not any(layer.requires_grad for layer in rows):
            information = information.detach()
        self.terms = dict(zip(names, information.detach().unbind(), strict=True))
        self._warn_of([names[index] for index in self._watch(information.detach())])
        reward = information.mean()
        self._last = reward.detach()
        return reward

    def _term(self, weight: float, reward: Tensor | None, parameters: list[nn.Parameter]) -> Tensor:
        if not any(p.requires_grad for p in parameters) or (reward is not None and not reward.requires_grad):
            self._warn_once("the MI term has no gradient: no layer that it sees depends on a trained parameter")
            return -weight * (self._last if reward is None else reward.detach())
        if self.balance is not None and weight:
            return self.balance(-weight * self._last, reward, weight, parameters)
        return -weight * (self._last if reward is None else reward)

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            warnings.warn(text, stacklevel=5)

    def _warn_of(self, broken: list[str]) -> None:
        if broken:
            warnings.warn(
                f"the MI term is not finite at step {self.steps} or just before, in {', '.join(broken)}: a layer of "
                "that pair holds NaN or infinity, or the estimator broke",
                RuntimeWarning,
                stacklevel=4,
            )

    def skip(self) -> None:
        """Count a step at which the term is not used."""
        self.start_at(self.steps + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: step count, verdict, last reward, balance in force, what the estimator learned."""
        balance = self.balance.state_dict() if self.balance else None
        estimator = self.estimator.state_dict()
        return {
            "steps": self.steps,
            "needed": self.needed,
            "reward": self._last,
            "balance": balance,
            "estimator": estimator,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.needed = state["needed"]
        self._last = state["reward"]
        self.estimator.load_state_dict(state["estimator"])
        if self.balance is not None:
            self.balance.load_state_dict(state["balance"])
        self.start_at(state["steps"])


TRAINING: dict[str, dict[str, Any]] = {
    "kde": {"shared_noise": SHARED_NOISE},
    "binning": {"slicing": "covarying", "noise": 1.0, "shared_noise": SHARED_NOISE},
}
"""Options with which a named estimator is rewarded, beyond its own defaults."""


def for_training(name: str) -> Estimator:
    """The estimator of that name, set up to be rewarded."""
    return estimators.get(name, **TRAINING.get(name, {}))


def pairs(layers: Iterable[str]) -> list[str]:
    """Names of the successive pairs.

    >>> pairs(["input", "block1", "block2"])
    ['input→block1', 'block1→block2']
    """
    names = list(layers)
    return [f"{a}→{b}" for a, b in itertools.pairwise(names)]


def prepare(layer: Tensor, samples: int) -> Tensor:
    """The rows of a layer that an estimate uses, feature maps and sequences average-pooled.

    Pooling keeps what a map says and drops where in detail: on whole maps the estimate saturates
    and its gradient works against the task.

    Args:
        layer: (n, channels, positions ...).
        samples: rows to take.
    """
    rows = layer[:samples]
    places = rows.shape[2:]
    if 1 <= len(places) <= len(POOLS):
        side = max(1, round((MAP_FEATURES / rows.shape[1]) ** (1 / len(places))))
        rows = POOLS[len(places) - 1](rows, [min(side, size) for size in places])
    return rows


POOLS: tuple[Callable[[Tensor, Any], Tensor], ...] = (adaptive_avg_pool1d, adaptive_avg_pool2d, adaptive_avg_pool3d)
"""By number of position dimensions, from 1."""
