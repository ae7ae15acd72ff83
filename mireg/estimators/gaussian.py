"""Mutual information of jointly Gaussian layers, from canonical correlations."""

from __future__ import annotations

import math
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from mireg.estimators.base import PairEstimator, in_full_precision
from mireg.estimators.gram import by_width, check_noise, standardise


class Gaussian(PairEstimator):
    """MI of the Gaussian with the layers' covariance: ``-1/2 sum log(1 - rho_i^2)``.

    rho_i are the canonical correlations, obtained from the projections H on the layers' columns:
    ``-1/2 logdet(I - H_x H_y)``, with ``H = Z (Z'Z + n s I)^-1 Z'`` of the standardised layer Z. s is
    the noise plus a shrinkage ``(r / (n - 1))^2``, both relative to the mean variance of the
    ``r = min(d, n - 1)`` directions. Shrinkage is negligible with many samples, and as large as the signal
    if units outnumber samples, when any two layers would look perfectly correlated. The first-order bias,
    ``tr H_x tr H_y / 2 (n - 1)``, is subtracted, so that the estimate is about 0 for independent layers
    (and sometimes slightly negative). For layers that are not Gaussian it captures only linear dependence.

    Args:
        noise: variance of the noise added to the layers, relative to their own.
        space: ``"feature"`` works on d x d matrices, ``"sample"`` on n x n; the values agree.
            ``"auto"`` uses the smaller.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.

    Source: Cover & Thomas, Elements of Information Theory, 2nd ed., section 8.5; Bach & Jordan, Kernel
    independent component analysis, JMLR 3, 2002, for regularised canonical correlations.

    >>> x = torch.tensor([[-1.0], [0.0], [1.0], [0.0]])
    >>> abs(Gaussian()(x, x[[1, 2, 3, 0]]).item()) < 0.2  # uncorrelated
    True
    """

    name: ClassVar[str] = "gaussian"

    def __init__(
        self,
        noise: float = 1e-4,
        space: Literal["auto", "feature", "sample"] = "auto",
        noise_floor: float = 1e-5,
    ) -> None:
        if not (math.isfinite(noise) and noise > 0):
            raise ValueError(f"noise={noise}: must be a positive number, or MI is infinite for a deterministic layer")
        if space not in ("auto", "feature", "sample"):
            raise ValueError(f"space={space!r}: choose auto, feature or sample")
        check_noise(noise_floor=noise_floor)
        self.noise = noise
        self.space = space
        self.noise_floor = noise_floor

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            n, widest = layers[0].shape[0], max(layer.shape[1] for layer in layers)
            if self.space == "feature" or (self.space == "auto" and widest < n):
                roots = by_width(layers, lambda stack: self._root(stack, widest))  # (L, n, widest)
                freedom = roots.square().sum((-2, -1))
                cross = roots[:-1].mT @ roots[partner]
                cross = cross @ cross.mT
            else:
                projections = by_width(layers, self._projection)  # (L, n, n)
                freedom = projections.diagonal(dim1=-2, dim2=-1).sum(-1)
                cross = projections[:-1] @ projections[partner]
            identity = torch.eye(cross.shape[-1], dtype=cross.dtype, device=cross.device)
            information: Tensor = -torch.linalg.slogdet(identity - cross).logabsdet / 2
            information = information - freedom[:-1] * freedom[partner] / (2 * (n - 1))
            return information.to(layers[0].dtype)

    def ceiling(self, n: int) -> float:
        """Upper bound on the MI of a layer with itself, over all possible ranks."""
        return max(r / 2 * math.log1p(1 / self._relative_noise(r, n)) for r in range(1, n))

    def _relative_noise(self, rank: int, n: int) -> float:
        return self.noise + (rank / (n - 1)) ** 2

    def _regularised(self, stack: Tensor) -> tuple[Tensor, float]:
        """Standardised layers (g, n, d) in double precision, and the ridge to add to their squares."""
        n, d = stack.shape[-2:]
        rank = min(d, n - 1)
        return standardise(stack, self.noise_floor).double(), n * self._relative_noise(rank, n) / rank

    def _root(self, stack: Tensor, widest: int) -> Tensor:
        """U (g, n, widest), where U U' is the projection H; columns beyond the layer's width are 0."""
        z, ridge = self._regularised(stack)
        identity = torch.eye(z.shape[-1], dtype=z.dtype, device=z.device)
        factor = torch.linalg.cholesky_ex(z.mT @ z + ridge * identity).L  # does not wait for the device
        root = torch.linalg.solve_triangular(factor, z.mT, upper=False).mT
        return pad(root, (0, widest - root.shape[-1]))

    def _projection(self, stack: Tensor) -> Tensor:
        """The projection H (g, n, n)."""
        z, ridge = self._regularised(stack)
        k = z @ z.mT
        identity = torch.eye(k.shape[-1], dtype=k.dtype, device=k.device)
        # K (K + ridge I)^-1, in the form whose gradient takes two products; neither waits for the device
        inverse: Tensor = torch.linalg.inv_ex(k + ridge * identity).inverse
        return identity - ridge * inverse
