"""What layers keep of the network's input, and the share of it that was lost on the way."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from mireg.estimators.gram import TINY, random_directions

PROJECTIONS, SEED = 16, 5
"""Number of random projections that stand for the input, and the seed of their directions."""

MEMORY = 0.9
"""What the running mean of an estimate keeps when the next one comes."""

CLEAR = 0.05
"""Nats about the target, of the layer that knows most, from which that part of the reward counts whole. Below, the rows
are too few for the estimator to see anything in these layers yet, and its gradient is noise."""


class Kept:
    """Running means of the information that layers have about the input.

    Args:
        certain: see :func:`share_lost`.

    Attributes:
        means: by layer, 0-dim, in nats.
        best: running mean of what the layer that knows most has of the target, 0-dim; None without a target so far.
    """

    def __init__(self, certain: float = 0.0) -> None:
        self.certain = certain
        self.means: dict[str, Tensor] = {}
        self.best: Tensor | None = None

    def update(self, names: Sequence[str], used: Sequence[int], nats: Tensor) -> Tensor:
        """Take in the estimates (used,) of some layers, and return the share that each of these has lost, (used,).

        Args:
            names: all layers in order.
            used: indices of those that were read.
            nats: their estimates.
        """
        now = nats.float()
        before = torch.stack([self.means.get(names[i], now[at]).to(now) for at, i in enumerate(used)])
        mean = _running(before, now)
        self.means |= {names[i]: value for i, value in zip(used, mean.unbind(), strict=True)}
        return share_lost(torch.stack([self.means[name].to(now) for name in names]), self.certain)[list(used)]

    def seen(self, nats: Tensor) -> Tensor:
        """Take in the estimates (used,) about the target; return how clearly the best layer knows of it, 0-dim.

        From 0, where its mean is not above zero, to 1 from :data:`CLEAR` on.
        """
        now = nats.float().amax()
        self.best = _running(now if self.best is None else self.best.to(now), now)
        return (self.best / CLEAR).clamp(0.0, 1.0).nan_to_num(0.0)

    def state_dict(self) -> dict[str, Any]:
        return {"kept": dict(self.means), "best": self.best}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.means, self.best = dict(state["kept"]), state["best"]


def _running(before: Tensor, now: Tensor) -> Tensor:
    """The next value of a running mean; a batch that overflows is forgotten."""
    mean = now.lerp(before, MEMORY)
    return mean.where(mean.isfinite(), before.where(before.isfinite(), now))


def projected(first: Tensor) -> Tensor:
    """Random projections (n, 16) of the first layer's rows (n, d), with mean 0 and variance 1: what stands for it."""
    z = first @ _directions(first.shape[1], first.dtype, first.device)
    z = z - z.mean(0)
    return z * (z.square().mean(0) + TINY).rsqrt()


def share_lost(kept: Tensor, certain: float = 0.0) -> Tensor:
    """How much less each layer has than the one before it that has most, as a share of that, (L,), from 0 to 1.

    Args:
        kept: estimates (L,), the first of them of the input itself.
        certain: what is lost is taken as a share of at least this. Where even the input tells less of itself, the rows
            are too few to say what later layers have lost.

    >>> share_lost(torch.tensor([2.0, 1.0, 1.5]))
    tensor([0.0000, 0.5000, 0.2500])
    """
    best = torch.cat([kept[:1], kept[:-1].cummax(0).values])
    return torch.where(best > 0, (best - kept) / best.clamp_min(certain), 0.0).clamp(0.0, 1.0)


@functools.lru_cache(maxsize=64)
def _directions(width: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    return random_directions(torch.empty(0, width, dtype=dtype, device=device), PROJECTIONS, SEED)
