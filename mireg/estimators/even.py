"""Evening out a gradient over classes, so that a layer that knows little learns all of them at once.

The usable information about classes grows fastest along the direction that the layer already shows best: a deep stack
that is starting to train learns one distinction after the other, and each has to pass through all layers. Damping the
strongest directions of the gradient lets the others grow alongside.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.8
"""Share by which the strongest direction is damped, if there is no other."""


def evened(gradient: Tensor, classes: Tensor, nats: Tensor, until: float) -> Tensor:
    """The gradient of the information about classes, with its strongest directions damped.

    With U the classes' orthonormal code and ``C = U' G`` the gradient's part in each class,

        G' = U (C - 0.8 C C' C / |C|^2), scaled to the length of G.

    The result is G for a layer that knows ``until`` nats or more, G' for one that knows nothing, and interpolated
    linearly in between.

    Args:
        gradient: (g, n, d) of g layers.
        classes: (n, k) code of the rows' classes, 0 in rows to skip; any code with the inner products of one-hot.
        nats: (g,) information that each layer has.
        until: nats from which on the gradient is unchanged.
    """
    size = (classes @ classes.sum(0))[:, None]  # of each row's class
    unit = classes * size.clamp_min(1).rsqrt()
    share = unit.mT @ gradient
    products = share @ share.mT
    total = products.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    tiny = torch.finfo(gradient.dtype).tiny
    even = unit @ (share - DAMPING / total.clamp_min(tiny) * (products @ share))
    length, own = (x.square().sum((-2, -1), keepdim=True) for x in (gradient, even))
    known = (nats / until).clamp(0, 1)[:, None, None]
    return torch.lerp((length / own.clamp_min(tiny)).sqrt() * even, gradient, known)
