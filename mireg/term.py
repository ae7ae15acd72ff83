"""The method: reward what successive layers keep, of the target and of the network's input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from mireg.balance import Balance
from mireg.distributed import alike, device_of_ranks, joined, world_size
from mireg.estimators import Estimator
from mireg.finite import FiniteWatch
from mireg.kept import Kept, projected
from mireg.layers import Layout
from mireg.rows import LARGEST, Rows, choose_rows
from mireg.schedules import Schedule
from mireg.turns import turn

TARGET = "target"
"""Name of the target in the names of estimates, ``"layer→target"``."""

INPUT_PART = 0.5
"""Factor of the input's part, beside the target's and without a target."""

PER_POSITION = 0.25
"""Fraction of the weight with a class per position: a language model ends worse with more, since its first layers have
more to do than to predict the next token (docs/notebook.md)."""

FROZEN = "no layer that it sees depends on a trained parameter"

FEWEST_ROWS = 8
"""With fewer rows, an estimate is meaningless and is not rewarded."""


class MIRegularizer:
    """Rewards the information that successive layers keep.

    With Z, 16 random projections of the input, and a target Y, the term is ``-weight * m`` times the mean over layers
    T_l of ``c I(T_l; Y) + w_l^2 I(T_l; Z) / 2``, and without a target of the second part alone. w_l is the share of the
    information about the input that was lost on the way: how much less T_l has of it than the layer before it that has
    most. c, from 0 to 1, says how clearly any layer knows of the target. m makes the weight relative to the task's
    gradient (:class:`mireg.balance.Balance`).

    Args:
        estimator: a differentiable estimator that learns nothing.
        weight: schedule over the steps that :meth:`step` counts.
        samples: number of rows of the batch that the estimate uses (:func:`mireg.rows.choose_rows`).
        gather: in data-parallel training, estimate on the rows of all ranks, ``samples`` in total, instead of
            on each rank's own. Every rank must then call :meth:`step` at every step; where their rows differ in number,
            each uses its own. Without it, ranks exchange nothing, and may differ in all.

    Attributes:
        terms: the last estimate of each layer by name, ``"layer→target"`` and ``"input→layer"``, in nats, detached.
        counted: share of the target's rows that count, 0-dim, 0 if too few do; None without a target.
        seen: c, how clearly any layer knows of the target, 0-dim; None before the first target.
        acts: whether the last use rewarded anything, 0-dim: without a target, layers may have lost nothing.
        note: why the last use added no term; empty if it added one.

    Raises:
        ValueError: if the estimator has no gradient or learns, or ``samples`` is too small.
    """

    def __init__(self, estimator: Estimator, weight: Schedule, *, samples: int = 128, gather: bool = False) -> None:
        if not estimator.is_differentiable or estimator.is_learned:
            why = "learns a critic" if estimator.is_learned else "has no gradient"
            raise ValueError(f"estimator {estimator.name!r} {why}: it can measure, not regularize")
        if not hasattr(samples, "__index__") or samples < FEWEST_ROWS:
            raise ValueError(f"samples={samples!r}: an estimate needs at least {FEWEST_ROWS} samples")
        self.estimator, self.weight, self.samples, self.gather = estimator, weight, samples, gather
        self.counted: Tensor | None = None
        self.seen: Tensor | None = None
        self.acts: Tensor | None = None
        self._watch = FiniteWatch()
        self.restart()

    def start_at(self, step: int) -> None:
        """Move to a step of the schedule, for example to resume a run from its step count alone."""
        weight = self.weight(step)
        if weight is None or not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight is {weight!r} at step {step}: a schedule must give finite values of at least 0")
        self.steps, self.active = step, weight != 0

    def step(
        self,
        layers: Mapping[str, Tensor],
        target: Tensor | None = None,
        layouts: Mapping[str, Layout] | None = None,
        **kinds: Any,
    ) -> Tensor | None:
        """Compute the term for one training step: 0-dim, weighted and signed, to be added to the loss.

        Args:
            layers: outputs of successive layers in order, (n, channels, positions ...) each.
            target: see :func:`mireg.rows.choose_rows`.
            layouts: batch and channel dimensions in the network itself; by default the first and second.
            kinds: ``outputs`` and ``ignore_index`` of :func:`mireg.rows.choose_rows`.

        Returns:
            The term, or None if there is nothing to reward; :attr:`note` then says why.

        Raises:
            ValueError, TypeError: if the target does not fit the layers.
        """
        names, outputs, step = list(layers), list(layers.values()), self.steps
        self.start_at(step + 1)
        device = outputs[0].device if outputs else device_of_ranks()
        strength = self.weight(step) * self.balance.update(device)
        trained = [output.requires_grad for output in outputs]
        note = "fewer than two layers ran in this pass" if len(outputs) < 2 else ""
        note = note or ("" if len(outputs[0]) else "the batch is empty")
        if note or not any(trained):
            if self.gather:
                alike([step], device)  # which every rank must reach
            return self._nothing(note or FROZEN)
        self.note = ""
        last = len(trained) - 1 - trained[::-1].index(True)
        names, trained = names[: last + 1], trained[: last + 1]
        source = outputs[last]
        outputs[last] = source.view_as(source)  # a separate branch, to tell the term's gradient from the task's

        seen = all(name in self._kept.means for name in names)
        used, often = turn(trained, step if seen else 0, source.device)
        samples = max(1, self.samples // (world_size() if self.gather else 1))
        rows = choose_rows(outputs, target, samples, step, used=sorted({0, *used}), **kinds)
        if self.gather:
            rows = joined(rows, [step, *used])
        if len(rows.layers[0]) < FEWEST_ROWS:
            return self._nothing(f"a batch of {len(source)} samples is too small to say anything of information")
        first = rows.layers[0]
        first = first.where(first.abs() <= LARGEST, 0.0)  # what the network fills in is not information
        read = [first, *rows.layers[1:]] if used[0] == 0 else rows.layers[1:]
        about = [projected(first.detach())] + ([] if rows.target is None else [rows.target])
        nats = self.estimator.estimate_parts(first.detach(), read, about)  # (parts, used): of the input, of the target
        factors = self._factors(names, used, nats.detach(), rows) * often
        self.acts = factors.any()
        reward = (factors * nats).sum() * self.estimator.reward_scale / sum(trained)

        strength = strength * (PER_POSITION if rows.per_position else 1.0)
        if reward.requires_grad:
            layout = (layouts or {}).get(names[last], Layout())
            self.balance.watch(source, outputs[last], layout, strength * factors[:, -1].sum() / sum(trained))
        return -strength * reward

    def _factors(self, names: Sequence[str], used: Sequence[int], nats: Tensor, rows: Rows) -> Tensor:
        """The factor (parts, used) of each estimate in the reward."""
        lost = self._kept.update(names, used, nats[0])
        self.counted = rows.counted(FEWEST_ROWS)
        parts, found = [INPUT_PART * lost.square()], [f"{names[0]}→{names[i]}" for i in used]
        if self.counted is not None:
            self.seen = self._kept.seen(nats[1])
            parts.append((self.counted.square() * self.seen).expand_as(lost))
            found += [f"{names[i]}→{TARGET}" for i in used]
        self.terms |= dict(zip(found, nats.flatten().unbind(), strict=True))
        self._watch(nats.flatten(), found, self.steps - 1)
        self.terms.pop(f"{names[0]}→{names[0]}", None)  # the reference, and no layer's own
        return torch.stack(parts)

    def _nothing(self, note: str) -> Tensor | None:
        self.note = note
        return None

    def restart(self) -> None:
        """Forget all that was seen of a training, and go back to the first step."""
        self.balance, self._kept = Balance(exchange=self.gather), Kept(self.estimator.certain)
        self.terms: dict[str, Tensor] = {}
        self.counted, self.acts, self.note = None, None, ""
        self.start_at(0)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs. Changes nothing."""
        state = {"steps": self.steps, "terms": dict(self.terms)}
        return state | self._kept.state_dict() | self.balance.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state returned by :meth:`state_dict`."""
        self.terms = dict(state["terms"])
        self._kept.load_state_dict(state)
        self.balance.load_state_dict(state)
        self.start_at(state["steps"])
