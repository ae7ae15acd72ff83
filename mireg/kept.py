"""What layers keep of the network's input, and the share of it that was lost on the way."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor

from mireg.estimators.gram import TINY, random_directions

PROJECTIONS, SEED = 16, 5
"""Number of random projections that stand for the input, and the seed of their directions."""

MEMORY = 0.9
"""What the running mean of a layer's information about the input keeps when the layer is read again."""


class Kept:
    """Running means of the information that layers have about the input.

    Args:
        certain: see :func:`share_lost`.

    Attributes:
        means: by layer, 0-dim, in nats.
    """

    def __init__(self, certain: float = 0.0) -> None:
        self.certain = certain
        self.means: dict[str, Tensor] = {}

    def update(self, names: Sequence[str], used: Sequence[int], nats: Tensor) -> Tensor:
        """Take in the estimates (used,) of some layers, and return the share that each of these has lost, (used,).

        Args:
            names: all layers in order.
            used: indices of those that were read.
            nats: their estimates.
        """
        now = nats.float()
        before = torch.stack([self.means.get(names[i], now[at]).to(now) for at, i in enumerate(used)])
        mean = now.lerp(before, MEMORY)
        mean = mean.where(mean.isfinite(), before.where(before.isfinite(), now))  # a batch that overflows is forgotten
        self.means |= {names[i]: value for i, value in zip(used, mean.unbind(), strict=True)}
        return share_lost(torch.stack([self.means[name].to(now) for name in names]), self.certain)[list(used)]


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
