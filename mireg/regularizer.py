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

from mireg.balance import GradientBalance
from mireg.distributed import gather, world_size
from mireg.estimators import Estimator
from mireg.estimators.base import as_matrices, check_samples
from mireg.finite import FiniteWatch
from mireg.schedules import Schedule

MAP_FEATURES = 64
"""Maps and sequences are average-pooled until channels times positions come near this number."""


class MIRegularizer:
    """Rewards the mutual information between successive layers.

    The reward is the mean, over successive pairs, of the estimated MI in nats; the term is minus the
    reward, weighted so that its gradient is ``weight`` times as long as the task's
    (:class:`mireg.balance.GradientBalance`), or, without balance, times the plain number.

    Args:
        estimator: any differentiable estimator.
        weight: schedule over the calls that :meth:`step` counts.
        samples: rows of the batch that the estimate uses, all where there are fewer: the first ones, since
            batches are shuffled and a leading slice is a view, the same rows of every layer.
        every: steps from one use of the term to the next; nothing is captured in between.
        balanced: whether ``weight`` is relative to the task's gradient or multiplies raw nats.
        gather: in data-parallel training, estimate on the rows of all ranks, ``samples`` in all, instead of
            on each rank's own. Every rank must have as many rows as the others.
        shuffled: estimate between rows that do not belong together, which leaves every marginal
            as it is and no dependence to reward: the control that a real effect must beat.

    Raises:
        ValueError: if the estimator is not differentiable or ``samples`` is below 2.
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
        self.terms: dict[str, Tensor] = {}
        self._warned = False
        self._watch = FiniteWatch()
        self._at(0)

    def _at(self, step: int) -> None:
        """Move to a step; ``active`` says whether the term is used at it.

        It is a plain attribute, so that a compiled forward pass depends on nothing that changes at every step.
        """
        self.steps = step
        self.active = step % self.every == 0 and self.weight(step) != 0

    def step(self, layers: Mapping[str, Tensor], parameters: Iterable[nn.Parameter]) -> Tensor:
        """The term for one training step: 0-dim, weighted and signed, to be added to the loss.

        Args:
            layers: outputs of successive layers in order, n rows each.
            parameters: of the network, over which the term is balanced against the task.

        Raises:
            ValueError: if the batch has a single sample, or the weight is not a number at least 0.
        """
        weight = self.weight(self.steps)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(
                f"weight is {weight!r} at step {self.steps}: a schedule must give finite values of at least 0"
            )
        ranks = world_size() if self.gather else 1
        chosen = [prepare(layer, max(1, self.samples // ranks)) for layer in layers.values()]
        if ranks > 1:
            chosen = gather(as_matrices(chosen))
        check_samples(chosen)
        if self.shuffled:
            chosen = [rows[torch.randperm(len(rows), device=rows.device)] for rows in chosen]
        information = self.estimator.estimate(as_matrices(chosen))
        self.terms = dict(zip(pairs(layers), information.detach().unbind(), strict=True))
        names = list(self.terms)
        self._warn_of([names[index] for index in self._watch(information.detach())])
        reward = information.mean()
        used = self.steps // self.every
        self._at(self.steps + 1)
        if not reward.requires_grad:
            if not self._warned:
                warnings.warn(
                    "the MI term has no gradient: no layer that it sees depends on a trained parameter", stacklevel=3
                )
                self._warned = True
            return -weight * reward
        if self.balance is None:
            return -weight * reward
        return self.balance(reward, weight, used, parameters)

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
        self._at(self.steps + 1)

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the step count and the balance in force."""
        return {"steps": self.steps, "balance": self.balance.state_dict() if self.balance else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self._at(state["steps"])
        if self.balance is not None:
            self.balance.load_state_dict(state["balance"])


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
