"""References without a gradient, on scikit-learn: what the differentiable estimators are held to."""

from __future__ import annotations

import itertools
import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.special import digamma
from sklearn.metrics import mutual_info_score
from sklearn.neighbors import NearestNeighbors
from torch import Tensor

from mireg.estimators.base import Estimator


class KSG(Estimator):
    """Kraskov's nearest-neighbour estimate.

    ``psi(k) + psi(n) - <psi(n_x) + psi(n_y)>``, with n_x the samples (itself counted) nearer in x than
    the k-th neighbour in (x, y) under the maximum norm. Layers are scaled to unit total variance. A
    sample with k or more exact duplicates takes their number for k (Gao et al.).

    Args:
        k: neighbours; fewer has less bias, more has less spread.

    Source: Kraskov, Stögbauer & Grassberger, Estimating mutual information, Physical Review E 69,
    2004; Gao et al., Estimating mutual information for discrete-continuous mixtures, NeurIPS 2017.

    >>> x = torch.linspace(0, 1, 200)[:, None]
    >>> bool(KSG()(x, x) > 3)
    True
    """

    name: ClassVar[str] = "ksg"
    is_differentiable: ClassVar[bool] = False

    def __init__(self, k: int = 3) -> None:
        if k < 1:
            raise ValueError(f"k={k}: at least 1 neighbour is needed")
        self.k = k

    def estimate(self, layers: list[Tensor]) -> Tensor:
        samples = [_scaled(layer) for layer in layers]
        nats = [_ksg(x, y, min(self.k, len(x) - 1)) for x, y in itertools.pairwise(samples)]
        return layers[0].new_tensor(nats)

    def ceiling(self, n: int) -> float:
        """What n samples of a layer with itself give, every one distinct."""
        return float(digamma(n) - digamma(min(self.k, n - 1)) + 2 / min(self.k, n - 1))


def _scaled(layer: Tensor) -> NDArray[np.float64]:
    rows = layer.detach().double().cpu().numpy()
    spread = math.sqrt(rows.var(0).sum())
    return rows / spread if spread > 0 else rows


def _ksg(x: NDArray[np.float64], y: NDArray[np.float64], k: int) -> float:
    joint = np.hstack([x, y])
    search = NearestNeighbors(metric="chebyshev", n_neighbors=k).fit(joint)
    radius = search.kneighbors()[0][:, -1]
    # Strictly inside the k-th distance; where that is 0, the duplicates.
    inside = np.where(radius > 0, np.nextafter(radius, 0), 0.0)
    neighbours = np.full(len(joint), float(k))
    for row in np.flatnonzero(radius == 0):
        neighbours[row] = _count(joint, inside[row : row + 1], joint[row : row + 1])[0]
    total = digamma(neighbours) + digamma(len(x))
    return float(np.mean(total - digamma(_count(x, inside)) - digamma(_count(y, inside))))


def _count(
    rows: NDArray[np.float64], radius: NDArray[np.float64], centres: NDArray[np.float64] | None = None
) -> NDArray[np.int64]:
    """Rows within each radius of each centre, the centre itself counted."""
    centres = rows if centres is None else centres
    if rows.shape[1] == 1:
        ordered = np.sort(rows[:, 0])
        upper = np.searchsorted(ordered, centres[:, 0] + radius, side="right")
        return np.asarray(upper - np.searchsorted(ordered, centres[:, 0] - radius, side="left"))
    counts = np.empty(len(centres), dtype=np.int64)
    tensor = torch.from_numpy(rows)
    for first in range(0, len(centres), CHUNK):
        part = slice(first, first + CHUNK)
        near = torch.cdist(torch.from_numpy(centres[part]), tensor, p=math.inf)
        counts[part] = (near <= torch.from_numpy(radius[part])[:, None]).sum(1).numpy()
    return counts


CHUNK = 512
"""Rows of distances held at once."""


class HardBinning(Estimator):
    """MI of layers cut into bins, every distinct row of bins a symbol; scikit-learn counts.

    The estimate of the information-plane literature. Wide layers make every row a symbol of its own,
    and the estimate is then log n whatever the dependence.

    Args:
        bins: equally wide bins per unit, from its smallest to its largest value; None takes
            ``round(2 n^(1/3))``, at least 4.

    Source: Shwartz-Ziv & Tishby, Opening the black box of deep neural networks via information,
    arXiv:1703.00810, 2017; its limits, Saxe et al., On the information bottleneck theory of deep
    learning, ICLR 2018.

    >>> x = torch.tensor([[0.0], [0.0], [1.0], [1.0]])
    >>> round(HardBinning()(x, -x).item(), 4)
    0.6931
    """

    name: ClassVar[str] = "hard_binning"
    is_differentiable: ClassVar[bool] = False

    def __init__(self, bins: int | None = None) -> None:
        if bins is not None and bins < 2:
            raise ValueError(f"bins={bins}: at least 2 bins are needed")
        self.bins = bins

    def estimate(self, layers: list[Tensor]) -> Tensor:
        symbols = [self._symbols(layer.detach().double().cpu().numpy()) for layer in layers]
        return layers[0].new_tensor([float(mutual_info_score(x, y)) for x, y in itertools.pairwise(symbols)])

    def _symbols(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        bins = self.bins if self.bins is not None else max(4, round(2 * len(rows) ** (1 / 3)))
        low, high = rows.min(0), rows.max(0)
        share = (rows - low) / np.where(high > low, high - low, 1)
        cells = np.minimum((share * bins).astype(np.int64), bins - 1)
        return np.asarray(np.unique(cells, axis=0, return_inverse=True)[1]).reshape(-1)
