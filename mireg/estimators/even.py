"""Evening out a gradient over classes, so that a layer that knows little learns all of them at once.

The usable information about classes grows fastest along the direction that the layer already shows best: a deep stack
that is starting to train learns one distinction after the other, and each has to pass through all layers. Damping the
strongest directions of the gradient lets the others grow alongside. Of a target that the layer has nothing to do with,
all directions are noise, and damping the strongest would amplify the rest: so it is done only as far as the means of
the classes differ by more than chance.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.8
"""Share by which the strongest direction is damped, if there is no other."""

CHANCE = 4.0
"""F ratio of the class means that is put down to chance. Of unrelated classes it is about 1; of ten of them over 128
rows it is above 4 once in several thousand batches, even in a layer of a single direction."""


def evened(gradient: Tensor, layers: Tensor, classes: Tensor, nats: Tensor, until: float) -> Tensor:
    """The gradient of the information about classes, with its strongest directions damped.

    With U the classes' orthonormal code and ``C = U' G`` the gradient's part in each class,

        G' = U (C - 0.8 C C' C / |C|^2), scaled to the length of G.

    The result is ``G + s (G' - G)`` with ``s = (1 - nats / until) (1 - 4 / F)``, both factors between 0 and 1. F is
    the variance between classes over that within them, each over its degrees of freedom.

    Args:
        gradient: (g, n, d) of g layers.
        layers: (g, n, d), centred, 0 in rows to skip.
        classes: (n, k) code of the rows' classes, 0 in rows to skip; any code with the inner products of one-hot.
        nats: (g,) information that each layer has.
        until: nats from which on the gradient is unchanged.
    """
    members = classes @ classes.sum(0)  # of each row's class, 0 in rows to skip
    unit = classes * members.clamp_min(1).rsqrt()[:, None]
    share = unit.mT @ gradient
    products = share @ share.mT
    total = products.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    tiny = torch.finfo(gradient.dtype).tiny
    even = unit @ (share - DAMPING / total.clamp_min(tiny) * (products @ share))
    length, own = (x.square().sum((-2, -1), keepdim=True) for x in (gradient, even))
    clear = (1 - CHANCE / _f_ratio(layers, unit, members).clamp_min(tiny)).clamp_min(0)
    strength = (1 - nats / until).clamp(0, 1) * clear
    return torch.lerp(gradient, (length / own.clamp_min(tiny)).sqrt() * even, strength[:, None, None])


def _f_ratio(layers: Tensor, unit: Tensor, members: Tensor) -> Tensor:
    """Variance (g,) of centred layers (g, n, d) between classes over that within, per degree of freedom."""
    rows = (members > 0).sum()
    classes = (members.clamp_min(1).reciprocal() * (members > 0)).sum()
    between = (unit.mT @ layers).square().sum((-2, -1))
    within = (layers.square().sum((-2, -1)) - between).clamp_min(0)
    within = within / (rows - classes).clamp_min(1)
    return between / (classes - 1).clamp_min(1) / within.clamp_min(torch.finfo(layers.dtype).tiny)
