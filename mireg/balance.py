"""m, which makes the weight of the term relative to the task's gradient at the last layer."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import get_gradient_edge

from mireg.distributed import sum_over_ranks
from mireg.layers import Layout

LARGEST_RATIO, SMALLEST_RATIO = 3.0, 1e-3
"""Bounds on the ratio of gradients, which is unbounded in a dead network, whose last layer knows nothing yet."""

FIRST_RATIO = 0.1
"""m in the first step, which knows no ratio yet. A dead graph network starts only after a strong first step; at 1 it
delays a text classifier (docs/notebook.md)."""

RISE, FALL = 0.1, 0.005
"""Rates of the running mean of the ratio, per use of the term. It rises quickly and falls slowly: a network that has
just started to learn still needs it."""


class Balance:
    """A running mean of ``|d task / d T_L| / |d I_L / d T_L|`` at the last layer T_L, from 0.001 to 3.

    Hooks on T_L read both gradients during the normal backward pass, so no second one is needed; the ratio of a step
    takes effect at the next step. It starts at the first ratio; until then m is 0.1.

    Args:
        exchange: whether the ranks of data-parallel training use the same ratio, from the sums of their squared norms.

    Attributes:
        ratio: the running mean, 0-dim; None before the first backward pass, NaN before the first usable one.
        seen: squared norms of both gradients in the last backward pass, (2,); None if there was none since.
    """

    def __init__(self, *, exchange: bool = False) -> None:
        self.exchange = exchange
        self.ratio: Tensor | None = None
        self.seen: Tensor | None = None

    def update(self, device: torch.device) -> Tensor:
        """Take in the last backward pass, and return m, 0-dim, without waiting for the device.

        With ``exchange``, every rank must call this at every use of the term, whatever it saw.
        """
        seen = torch.full((2,), torch.nan, device=device) if self.seen is None else self.seen.to(device)
        # Overflow under a loss scale is ignored. If the task has no gradient here, as when it reads a recurrent
        # layer's outputs over time and the term its last state, the term is close to zero.
        # A silent last layer, whose estimate has no gradient, gives the largest ratio.
        known = seen.isfinite().all() & (seen > 0).any()
        sums = torch.cat([seen.where(known, 0.0), known[None].to(seen.dtype)])
        task, own, ranks = sum_over_ranks(sums) if self.exchange else sums
        self.seen = None
        ratio = (task / own).sqrt().clamp(SMALLEST_RATIO, LARGEST_RATIO)
        before = torch.full_like(ratio, torch.nan) if self.ratio is None else self.ratio.to(device)
        moved = before + torch.where(ratio > before, RISE, FALL) * (ratio - before)
        self.ratio = torch.where(ranks > 0, torch.where(before.isnan(), ratio, moved), before)
        return self.ratio.nan_to_num(FIRST_RATIO)

    def watch(self, source: Tensor, branch: Tensor, layout: Layout, factor: Tensor) -> None:
        """Read the gradients of the task and of the term at the last layer in the coming backward pass.

        The term uses a view of the layer, whose gradient is the term's alone; the gradient of the layer itself is the
        sum of both. The term's arrives first: its nodes were created last.

        Args:
            source: the layer as the estimate uses it, with samples and channels first.
            branch: a view of it that only the term uses.
            layout: the network's own batch and channel dimensions.
            factor: the factor on the layer's estimate in the term, 0-dim.
        """
        _Gradients(self, source, branch, layout, factor.detach())

    def state_dict(self) -> dict[str, Any]:
        return {"ratio": self.ratio, "seen": self.seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.ratio, self.seen = state["ratio"], state["seen"]


class _Gradients:
    """The hooks of :meth:`Balance.watch`."""

    def __init__(self, balance: Balance, source: Tensor, branch: Tensor, layout: Layout, factor: Tensor) -> None:
        self.balance = balance
        self.layout = layout
        self.factor = factor
        self.own: Tensor | None = None
        self.whole: Tensor | None = None  # sum over the calls so far
        # Squared norms: of the task's gradient in a backward pass with and without the term, and of the estimate's.
        self.beside = self.alone = torch.zeros_like(factor)
        self.estimate: Tensor | None = None
        branch.register_hook(self.on_own_gradient)
        edge = get_gradient_edge(source)
        node: Any = edge.node
        output = edge.output_nr
        for _ in range(layout.views(source)):  # from the view to the network's own tensor
            node, output = node.next_functions[0]
        edges = [(node, output)]
        if layout.averaged and "Mean" in node.name():  # over a stack of calls, which the network goes on with
            edges = list(node.next_functions[0][0].next_functions)
        self.several = len(edges) > 1
        for node, output in edges:
            node.register_prehook(functools.partial(self.on_whole_gradient, output))

    def on_own_gradient(self, gradient: Tensor) -> None:
        self.own = self.layout.restore(gradient.detach()).float()
        self.whole = None

    def on_whole_gradient(self, output: int, gradients: Sequence[Tensor | None]) -> None:
        gradient, own = gradients[output], self.own
        if gradient is None:
            return
        gradient = gradient.detach().float()
        if self.several:  # the gradient of a shift of all calls is the sum of theirs
            self.whole = gradient = gradient if self.whole is None else self.whole + gradient
        else:
            self.own = None
        if own is None:  # the task alone; a pass with neither, as in a gradient penalty, is not used
            self.alone = gradient.square().sum()
        else:
            self.beside = (gradient - own).square().sum()  # exactly 0 if the term went backward alone
            self.estimate = (own / self.factor).square().sum()
        if self.estimate is not None:
            self.balance.seen = torch.stack([torch.where(self.beside > 0, self.beside, self.alone), self.estimate])
