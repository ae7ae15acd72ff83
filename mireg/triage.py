"""Which networks the term is for: those whose layers pass on almost nothing when training begins."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from mireg.distributed import mean_over_ranks
from mireg.estimators.kde import KDE

DEAD = 0.05
"""Share of log n below which a pair of layers counts as dead."""

ENOUGH = 0.5
"""Share of dead pairs above which a network needs the term."""

SHARED_NOISE = 0.01
"""Noise that all layers share (:class:`mireg.estimators.kde.KDE`): a signal fainter than it brings no gradient back."""


def dead_pairs(layers: Sequence[Tensor]) -> Tensor:
    """Which successive pairs pass on almost nothing: their MI is below a twentieth of what n samples can show.

    Judged with the kernel estimate that :func:`mireg.wrap` rewards by default, whatever is rewarded.

    Args:
        layers: L matrices (n, d_l).

    Returns:
        (L - 1,) of booleans.
    """
    with torch.no_grad():
        nats = KDE(shared_noise=SHARED_NOISE).estimate(list(layers))
    return nats < DEAD * math.log(len(layers[0]))


def is_needed(layers: Sequence[Tensor]) -> bool:
    """Whether more than half of the successive pairs are dead, on all ranks taken together.

    Two kinds of network lie far apart. At initialisation 50 to 90% of the pairs are dead in deep sigmoid stacks and
    in deep stacks of PyTorch's default initialisation, and none, rarely a tenth, in networks with BatchNorm,
    LayerNorm, residual connections or He's initialisation.
    """
    dead = dead_pairs(layers).float().mean()
    (share,) = mean_over_ranks([dead], [dead])
    return bool(share is not None and share > ENOUGH)
