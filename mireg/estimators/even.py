"""Evening out a gradient over classes, so that a layer that knows little learns all of them at once.

A linear reader's information about classes grows fastest along the direction that the layer already shows
best: a deep stack that is waking up learns one distinction after the other, and each has to travel through all layers.
Taking from the gradient part of its strongest directions lets the others rise beside it.
"""

from __future__ import annotations

import torch
from torch import Tensor

DAMPING = 0.8
"""Share by which the strongest direction is damped, if there is no other."""


def evened(gradient: Tensor, classes: Tensor, nats: Tensor, until: float) -> Tensor:
    """The gradient of the information about classes, with its strongest directions damped.

    With U the classes' orthonormal code and ``C = U' G`` the gradient's share in each class,

        G' = U (C - 0.8 C C' C / |C|^2), brought to the length of G.

    What is returned is G where a layer knows ``until`` nats or more, G' where it knows nothing, and in between their
    mean in proportion.

    Args:
        gradient: (g, n, d) of g layers.
        classes: (n, k) code of the rows' classes, rows that do not count 0; any with the inner products of one-hot.
        nats: (g,) what each layer knows.
        until: nats from which on the gradient stays as it is.
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
