"""SIGReg: make the samples of every layer an isotropic normal distribution."""

from __future__ import annotations

import torch
from torch import Tensor

from mireg.ablation.arms.captured import LayerTerm

LARGEST = 5.0
"""The largest argument of the characteristic function."""


def epps_pulley(samples: Tensor, points: int) -> Tensor:
    """``integral |phi(t) - exp(-t^2/2)|^2 exp(-t^2/2) dt`` from -5 to 5, with phi the samples' characteristic function.

    Trapezoidal rule at ``points`` positive arguments: the integrand is even, and 0 at 0.

    Args:
        samples: (n, k), k samples of size n.
        points: arguments from ``5 / points`` to 5.

    Returns:
        (k,) tensor, at least 0; near 0 if the samples are standard normal.

    Source: Epps & Pulley, A test for normality based on the empirical characteristic function, Biometrika 70, 1983.
    """
    step = LARGEST / points
    t = step * torch.arange(1, points + 1, device=samples.device, dtype=samples.dtype)
    angles = samples[..., None] * t
    normal = (-t.square() / 2).exp()
    distance = (angles.cos().mean(0) - normal).square() + angles.sin().mean(0).square()
    weights = 2 * step * normal
    weights[-1] /= 2
    return distance @ weights


class SIGReg(LayerTerm):
    """``weight`` times the mean over hidden layers and random directions of :func:`epps_pulley` of the projected rows.

    Maps and sequences are averaged over positions. The directions, of length 1, are new at each step and depend on the
    step alone. 8 positive points amount to the paper's 17 from -5 to 5.

    LeJEPA regularises the output of an encoder, with at least 256 directions. It minimises ``lambda n s + (1 - lambda)
    p``, where s is the statistic, n the batch size and p the prediction loss; the example that its authors publish has
    lambda = 0.02 and n = 256. Beside a loss with factor 1, that is a weight of ``0.02 / 0.98 * 256 = 5.2``. Ours is
    0.2: it acts on every hidden layer, beside a supervised loss, and not on an output that nothing else keeps from
    collapsing. To use theirs: ``Arm("SIGReg as published", partial(SIGReg, weight=5.2, directions=256))``.

    Source: Balestriero & LeCun, LeJEPA: provable and scalable self-supervised learning without the heuristics, 2025
    (arXiv:2511.08544).
    """

    name = "SIGReg"
    weight = 0.2
    directions = 16
    points = 8  # positive arguments of the characteristic function

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        generator = torch.Generator().manual_seed(self._step)
        self._step += 1
        statistics = {}
        for name, layer in self.model.pop().items():
            rows = layer.flatten(2).mean(2).float() if layer.ndim > 2 else layer.float()
            directions = torch.randn(rows.shape[1], self.directions, generator=generator).to(rows.device)
            statistics[name] = epps_pulley(rows @ (directions / directions.norm(dim=0)), self.points).mean()
        return self.weight * self.stacked(statistics).mean()
