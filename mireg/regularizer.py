"""The reward: from the outputs of successive layers to one term of the loss."""

from __future__ import annotations

import itertools
import math
import warnings
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import adaptive_avg_pool2d

from mireg.balance import GradientBalance
from mireg.estimators import Estimator
from mireg.estimators.base import as_matrices, check_samples
from mireg.schedules import Schedule

MAP_FEATURES = 64
"""Feature maps are average-pooled until channels times positions come near this number."""


class MIRegularizer:
    """Rewards the mutual information between successive layers.

    The reward is the mean, over successive pairs, of the estimated MI in nats; the term is minus the
    reward, weighted so that its gradient is ``weight`` times as long as the task's
    (:class:`mireg.balance.GradientBalance`), or, without balance, times the plain number.

    Args:
        estimator: any differentiable estimator.
        weight: schedule over the calls that :meth:`step` counts.
        samples: rows of the batch that the estimate uses, the first ones; all where there are fewer.
        balanced: whether ``weight`` is relative to the task's gradient or multiplies raw nats.
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
        balanced: bool = True,
        shuffled: bool = False,
    ) -> None:
        if not estimator.is_differentiable:
            raise ValueError(f"estimator {estimator.name!r} has no gradient: it can measure, not regularize")
        if samples < 2:
            raise ValueError(f"samples={samples}: an estimate needs at least 2 samples")
        self.estimator = estimator
        self.weight = weight
        self.samples = samples
        self.shuffled = shuffled
        self.balance = GradientBalance() if balanced else None
        self.steps = 0
        self.terms: dict[str, Tensor] = {}
        self._warned = False

    @property
    def active(self) -> bool:
        """Whether the term has a weight at the present step."""
        return self.weight(self.steps) != 0

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
        chosen = [prepare(layer, self.samples) for layer in layers.values()]
        check_samples(chosen)
        if self.shuffled:
            chosen = [rows[torch.randperm(len(rows), device=rows.device)] for rows in chosen]
        information = self.estimator.estimate(as_matrices(chosen))
        self.terms = dict(zip(pairs(layers), information.detach().unbind(), strict=True))
        reward = information.mean()
        self.steps += 1
        if not reward.requires_grad:
            if not self._warned:
                warnings.warn(
                    "the MI term has no gradient: no layer that it sees depends on a trained parameter", stacklevel=3
                )
                self._warned = True
            return -weight * reward
        if self.balance is None:
            return -weight * reward
        return self.balance(reward, weight, self.steps - 1, parameters)

    def skip(self) -> None:
        """Count a step at which the weight is 0."""
        self.steps += 1

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: the step count and the balance in force."""
        return {"steps": self.steps, "balance": self.balance.state_dict() if self.balance else None}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up what :meth:`state_dict` gave."""
        self.steps = state["steps"]
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
    """The rows of a layer that an estimate uses, feature maps average-pooled.

    Pooling keeps what a map says and drops where in detail: on whole maps the estimate saturates
    and its gradient works against the task.
    """
    rows = layer[:samples]
    if rows.ndim == 4:
        side = max(1, round(math.sqrt(MAP_FEATURES / rows.shape[1])))
        height, width = rows.shape[2:]
        rows = adaptive_avg_pool2d(rows, (min(side, height), min(side, width)))
    return rows
