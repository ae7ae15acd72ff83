"""The method: turn the outputs of successive layers, and the target, into one loss term."""

from __future__ import annotations

import functools
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from mireg import estimators
from mireg.distributed import gather, gather_plain, mean_over_ranks, world_size
from mireg.estimators import Estimator
from mireg.finite import FiniteWatch
from mireg.layers import Layout
from mireg.rows import choose_rows, has_positions
from mireg.schedules import Schedule

TARGET = "target"
"""Name of the target in the names of estimates, ``"layer→target"``."""

LABEL_FREE = 0.01
"""Fraction of the weight that the term has without a target: more than this harms autoencoders."""

PER_POSITION = 0.25
"""Fraction of the weight that the term has with a class per position: a language model ends worse with more, since its
first layers have more to do than to predict the next token (docs/notebook.md)."""

FEWEST_ROWS = 8
"""Minimum number of rows: with fewer, an estimate is meaningless and no term is added."""

LARGEST_RATIO, SMALLEST_RATIO = 3.0, 1e-3
"""Bounds on the ratio of gradients, which is unbounded in a dead network, whose last layer knows nothing yet."""

TURNS = 3
"""The layers between the first and the last take turns: each is rewarded at every third use of the term, three times as
much, at a third of the cost. Some networks then need up to a quarter more steps, others no more (docs/notebook.md)."""

RISE, FALL = 0.1, 0.005
"""Rates of the running mean of the ratio, per use of the term. It rises quickly and falls slowly: a network that has
just started to learn still needs it."""

LOOK = 10
"""Uses of the term from one uncompiled pass to the next. In a compiled pass the task's gradient at the last layer stays
inside the compiled graph, so that the ratio is unknown."""


class MIRegularizer:
    """Rewards the information in successive layers.

    With a target Y, each layer T_l is rewarded for its information about Y, I(T_l; Y); without one, for the
    information that the next layer keeps, I(T_l; T_{l+1}). The term is

        ``-weight * m * mean over layers of the estimate (nats)``

    where m makes the weight relative to the task: a running mean of ``|d task / d T_L| / |d I_L / d T_L|`` at the
    last layer T_L, from 0.001 to 3, that rises quickly and falls slowly. A hook on T_L reads the task's gradient during
    the normal backward pass, so no second one is needed; the ratio of a step takes effect at the next step. At the
    first step m is 1.

    With a target, the layers between the first and the last take turns (:data:`TURNS`), to save time; the mean over
    layers is then that over a round of turns.

    Args:
        estimator: any differentiable estimator. One that learns takes a step after each estimate, with its
            own optimizer; what it learns is in this state dict, not in the network's.
        weight: schedule over the steps that :meth:`step` counts.
        samples: number of rows of the batch that the estimate uses (:func:`mireg.rows.choose_rows`).
        every: steps from one use of the term to the next; nothing is captured in between.
        gather: in data-parallel training, estimate on the rows of all ranks, ``samples`` in total, instead of
            on each rank's own. Every rank must have the same number of rows.

    Attributes:
        terms: the last estimate of each layer or pair by name, detached.
        note: why the last use added no term; empty if it added one.
        look: whether the next pass must not be compiled, so that the task's gradient can be seen.

    Raises:
        ValueError: if the estimator is not differentiable, or ``samples`` or ``every`` is too small.
    """

    def __init__(
        self, estimator: Estimator, weight: Schedule, *, samples: int = 128, every: int = 1, gather: bool = False
    ) -> None:
        if not estimator.is_differentiable:
            raise ValueError(f"estimator {estimator.name!r} has no gradient: it can measure, not regularize")
        if samples < FEWEST_ROWS:
            raise ValueError(f"samples={samples}: an estimate needs at least {FEWEST_ROWS} samples")
        if every < 1:
            raise ValueError(f"every={every}: the term is used at every step (1) or at every k-th")
        self.estimator = estimator
        self.weight = weight
        self.samples = samples
        self.every = every
        self.gather = gather
        self.terms: dict[str, Tensor] = {}
        self.note = ""
        self._hidden = 0  # compiled uses since the last uncompiled one
        self._gap = 1  # uses for which the last ratio stands
        self._ratio: Tensor | None = None  # m
        self._seen: Tensor | None = None  # squared norms of both gradients at T_L in the last backward pass
        self._warnings: set[str] = set()
        self._watch = FiniteWatch()
        self.start_at(0)

    def start_at(self, step: int) -> None:
        """Move to a step, for example to resume a run from its step count alone.

        ``active`` says whether the step uses the term. It and ``look`` are plain attributes, so that a compiled forward
        pass depends on nothing that changes at every step.
        """
        self.steps = step
        weight = self.weight(step)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight is {weight!r} at step {step}: a schedule must give finite values of at least 0")
        self.active = step % self.every == 0 and weight != 0
        self.look = self._hidden + 1 >= LOOK

    def rewind(self) -> None:
        """Go back to the start of the schedule, to a step that uses the term, and to the next turn: for timing."""
        uses = math.ceil(self.steps / self.every)
        self.start_at(uses % TURNS * self.every)

    def skip(self) -> None:
        """Count a step at which the term is not used."""
        self.start_at(self.steps + 1)

    def step(
        self, layers: Mapping[str, Tensor], target: Tensor | None = None, layouts: Mapping[str, Layout] | None = None
    ) -> Tensor | None:
        """Compute the term for one training step: 0-dim, weighted and signed, to be added to the loss.

        Args:
            layers: outputs of successive layers in order, (n, channels, positions ...) each.
            target: see :func:`mireg.rows.choose_rows`; without one, each layer is rewarded for the information it
                keeps from the previous layer, with a hundredth of the weight. With a class per position, the weight is
                a quarter.
            layouts: batch and channel dimensions in the network itself; by default the first and second.

        Returns:
            The term, or None if there is nothing to reward; :attr:`note` then says why.

        Raises:
            ValueError: if the target does not fit the layers.
        """
        weight = self.weight(self.steps)
        names, outputs = list(layers), list(layers.values())
        trained = [output.requires_grad for output in outputs]
        self.note = self._nothing_to_reward(outputs, trained)
        if self.note:
            self._warn_once(f"no term is added: {self.note}")
            self.skip()
            return None
        last = len(trained) - 1 - trained[::-1].index(True)
        source = outputs[last]
        outputs[last] = source.view_as(source)  # a separate branch, to tell the term's gradient from the task's

        used = self._used(len(outputs), last, target)
        rows, code = self._rows(outputs, target, list(used))
        if code is None:
            information = self.estimator.estimate(rows)
            terms = now = pairs(names)
            rewarded = [float(a or b) for a, b in itertools.pairwise(trained)]
            count = sum(rewarded)
        else:
            information = self.estimator.estimate_about(rows, code)
            terms = [f"{name}→{TARGET}" for name in names]
            now = [terms[index] for index in used]
            rewarded = [float(trained[index] * turns) for index, turns in used.items()]
            count = sum(trained)
        self._record(terms, now, information)
        if information.requires_grad:
            self.estimator.learn(information)
        reward = (information * _constant(tuple(rewarded), information.device)).sum() / count

        strength = weight * self._balance(information) * _share(target, len(source))
        term = -strength * reward
        if source.grad_fn is not None and "CompiledFunction" in source.grad_fn.name():
            self._hidden += 1
        elif reward.requires_grad and torch.is_grad_enabled():
            self._gap, self._hidden = self._hidden + 1, 0
            layout = (layouts or {}).get(names[last], Layout())
            _Gradients(self, source, outputs[last], layout, strength / count)
        self.skip()
        return term

    def _nothing_to_reward(self, outputs: Sequence[Tensor], trained: Sequence[bool]) -> str:
        ranks = world_size() if self.gather else 1
        if len(outputs) < 2:
            return "fewer than two layers ran in this pass"
        if not any(trained):
            return "no layer that it sees depends on a trained parameter"
        if len(outputs[0]) * ranks < FEWEST_ROWS and all(math.prod(o.shape[2:]) == 1 for o in outputs):
            return f"a batch of {len(outputs[0])} samples is too small to say anything of information"
        return ""

    def _used(self, count: int, last: int, target: Tensor | None) -> dict[int, int]:
        """Indices in order of the layers whose turn it is, and the number of uses until each one's next turn."""
        if target is None or self.estimator.is_learned:  # pairs of successive layers, or a critic for each layer
            return dict.fromkeys(range(count), 1)
        between = [index for index in range(1, count) if index != last]
        turns = min(TURNS, max(1, len(between)))
        now = between[self.steps // self.every % turns :: turns]
        return dict(sorted({0: 1, last: 1, **dict.fromkeys(now, turns)}.items()))

    def _rows(
        self, outputs: Sequence[Tensor], target: Tensor | None, used: Sequence[int]
    ) -> tuple[list[Tensor], Tensor | None]:
        """Row matrices of the used layers and the matching target, gathered from all ranks if ``gather`` is set."""
        ranks = world_size() if self.gather else 1
        rows, code = choose_rows(outputs, target, max(1, self.samples // ranks), self.steps, used)
        if ranks > 1:
            rows, code = gather(rows), None if code is None else gather_plain(code)
        return rows, code

    def _balance(self, like: Tensor) -> Tensor:
        """m, which makes the weight relative to the task's gradient; stays on the device."""
        if self._seen is not None:
            (seen,) = mean_over_ranks([self._seen], [self._seen])
            assert seen is not None
            task, own = seen
            ratio = (task / own).sqrt()
            # Overflow under a loss scale is ignored. If the task has no gradient here, as when it reads a recurrent
            # layer's outputs over time and the term its last state, the term is close to zero.
            known = task.isfinite() & own.isfinite() & (own > 0)
            ratio = ratio.clamp(SMALLEST_RATIO, LARGEST_RATIO)
            before = torch.full_like(ratio, torch.nan) if self._ratio is None else self._ratio
            rise, fall = (1 - (1 - rate) ** self._gap for rate in (RISE, FALL))
            moved = before + torch.where(ratio > before, rise, fall) * (ratio - before)
            self._ratio = torch.where(known, torch.where(before.isnan(), ratio, moved), before)
            self._seen = None
        return torch.ones((), device=like.device) if self._ratio is None else self._ratio.nan_to_num(1.0)

    def see(self, task: Tensor, own: Tensor) -> None:
        """Record the squared norms (0-dim) of the task's and the estimate's gradients at the last layer."""
        self._seen = torch.stack([task, own])

    def _record(self, all_names: list[str], names: list[str], information: Tensor) -> None:
        known = {**self.terms, **dict(zip(names, information.detach().unbind(), strict=True))}
        self.terms = {name: known[name] for name in all_names if name in known}
        broken = self._watch(information.detach(), names)
        if broken:
            warnings.warn(
                f"the MI term is not finite at step {self.steps} or just before, in {', '.join(broken)}: a layer "
                "there holds NaN or infinity, or the estimator broke",
                RuntimeWarning,
                stacklevel=6,
            )

    def _warn_once(self, text: str) -> None:
        if text not in self._warnings:
            self._warnings.add(text)
            warnings.warn(text, stacklevel=6)

    def state_dict(self) -> dict[str, Any]:
        """The state that a resumed run needs: step count, balance and the estimator's state. Changes nothing."""
        return {
            "steps": self.steps,
            "ratio": self._ratio,
            "seen": self._seen,
            "hidden": self._hidden,
            "gap": self._gap,
            "estimator": self.estimator.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state returned by :meth:`state_dict`."""
        self._ratio, self._seen = state["ratio"], state["seen"]
        self._hidden, self._gap = state["hidden"], state["gap"]
        self.estimator.load_state_dict(state["estimator"])
        self.start_at(state["steps"])


class _Gradients:
    """Measures the gradients of the task and of the term at the last layer during the backward pass.

    The term uses a view of the layer, whose gradient is the term's alone; the gradient of the layer itself is the
    sum of both. The term's arrives first: its nodes were created last.

    Args:
        regularizer: the regularizer that records both.
        source: the layer as the estimate uses it, with samples and channels first.
        branch: a view of it that only the term uses.
        layout: the network's own batch and channel dimensions.
        strength: the factor on the layer's estimate, 0-dim.
    """

    def __init__(
        self, regularizer: MIRegularizer, source: Tensor, branch: Tensor, layout: Layout, strength: Tensor
    ) -> None:
        self.regularizer = regularizer
        self.layout = layout
        self.strength = strength.detach()
        self.own: Tensor | None = None
        # Squared norms: of the task's gradient in a backward pass with and without the term, and of the estimate's.
        self.beside = self.alone = torch.zeros_like(self.strength)
        self.term: Tensor | None = None
        branch.register_hook(self.see_own)
        edge = get_gradient_edge(source)
        node, self.output = edge.node, edge.output_nr
        for _ in range(layout.views(source)):  # from the view to the network's own tensor
            (viewed, self.output), *_ = node.next_functions
            assert viewed is not None
            node = viewed
        node.register_prehook(self.see_all)

    def see_own(self, gradient: Tensor) -> None:
        self.own = self.layout.restore(gradient.detach()).float()

    def see_all(self, gradients: Sequence[Tensor | None]) -> None:
        gradient, own = gradients[self.output], self.own
        self.own = None
        if gradient is None:
            return
        gradient = gradient.detach().float()
        if own is None:  # the task alone; a pass with neither, as in a gradient penalty, is not used
            self.alone = gradient.square().sum()
        else:
            self.beside = (gradient - own).square().sum()  # exactly 0 if the term went backward alone
            self.term = (own / self.strength).square().sum()
        if self.term is not None:
            self.regularizer.see(torch.where(self.beside > 0, self.beside, self.alone), self.term)


def _share(target: Tensor | None, samples: int) -> float:
    """Fraction of the weight that the term has with such a target."""
    if target is None:
        return LABEL_FREE
    return PER_POSITION if has_positions(target, samples) else 1.0


@functools.lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """The values on a device, copied there once."""
    return torch.tensor(values, device=device)


def pairs(layers: Iterable[str]) -> list[str]:
    """Names of the pairs of successive layers.

    >>> pairs(["input", "block1", "block2"])
    ['input→block1', 'block1→block2']
    """
    names = list(layers)
    return [f"{a}→{b}" for a, b in itertools.pairwise(names)]


FOR_TRAINING: dict[str, dict[str, Any]] = {
    "usable": {"ridge": 0.1, "per_dimension": True, "shared_noise": 0.1},
    "kde": {"shared_noise": 0.01},
    "binning": {"slicing": "covarying", "noise": 1.0, "shared_noise": 0.01},
}
"""Options for rewarding a named estimator, where they differ from its defaults. Noise shared by all layers makes a
layer's scale matter: a signal weaker than the noise yields no gradient."""


def for_training(name: str) -> Estimator:
    """Create the named estimator with the options for rewarding it."""
    return estimators.get(name, **FOR_TRAINING.get(name, {}))
