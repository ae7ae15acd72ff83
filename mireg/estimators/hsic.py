"""Kernel dependence: centred kernel alignment. Dependence, not mutual information."""

from __future__ import annotations

from typing import ClassVar

from torch import Tensor

from mireg.estimators.base import Estimator, in_full_precision
from mireg.estimators.gram import TINY, gram


class CKA(Estimator):
    """Linear centred kernel alignment of successive layers, in [0, 1].

    ``CKA = HSIC(X, Y) / sqrt(HSIC(X, X) HSIC(Y, Y))`` with linear kernels. It says how alike the
    two layers arrange the samples, not how much they know of each other: it reads near 1 on
    features of rank one.

    Args:
        noise_floor: see :func:`mireg.estimators.gram.standardise`; it also bounds the alignment of
            a collapsed layer, whose rows differ by rounding alone, near 0.

    Source: Kornblith et al., Similarity of neural network representations revisited, ICML 2019.

    >>> import torch
    >>> x = torch.tensor([[0.0, 1.0], [1.0, 0.0], [2.0, 1.0]])
    >>> round(CKA()(x, 3 * x + 1).item(), 3)
    1.0
    """

    name: ClassVar[str] = "cka"
    measures: ClassVar[str] = "dependence"

    def __init__(self, noise_floor: float = 1e-3) -> None:
        self.noise_floor = noise_floor

    def estimate(self, layers: list[Tensor]) -> Tensor:
        with in_full_precision(layers[0]):
            k = gram(layers, self.noise_floor)  # of centred samples: H K H with H the centring matrix
            length = (k.square().mean((1, 2)) + TINY).sqrt()
            return (k[:-1] * k[1:]).mean((1, 2)) / (length[:-1] * length[1:] + COLLAPSED)


COLLAPSED = 1e-6
"""Added to the product of the two layers' lengths, itself of order 1/n^2 to 1 for live layers."""
