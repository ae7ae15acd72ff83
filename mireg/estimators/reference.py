"""Reference estimators without a gradient, based on scikit-learn."""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mireg.estimators.base import PairEstimator, paired

# SciPy and scikit-learn are imported where they are used: they would take most of the time of `import mireg`.


class KSG(PairEstimator):
    """Kraskov's nearest-neighbour estimate, in its second form.

    ``psi(k) - 1/k + psi(n) - <psi(n_x) + psi(n_y)>``, where n_x counts the samples no further away in x than
    the furthest, in x, of the k nearest neighbours in (x, y) under the maximum norm. Units are first converted to
    normal scores, which does not change the MI and removes heavy tails. For samples with exact duplicates,
    the number of duplicates replaces k (Gao et al.).

    The density is assumed constant over a ball of k neighbours, which causes a bias of order
    ``(k / n)^(2 / (dx + dy))``. By default, estimates for several k are therefore extrapolated to k = 0 by a line
    in this quantity.

    Args:
        k: number of neighbours; fewer give less bias, more give less spread. None extrapolates from 2, 4, 8 and 16 if
            a pair has at most 6 units in total, and otherwise uses 3, because extrapolation does not help there.

    Source: Kraskov, Stögbauer & Grassberger, Estimating mutual information, Physical Review E 69,
    2004; Gao et al., Estimating mutual information for discrete-continuous mixtures, NeurIPS 2017;
    Sricharan, Wei & Hero, Ensemble estimators for multivariate entropy estimation, IEEE Transactions on
    Information Theory 59(7), 2013, for the extrapolation.

    >>> x = torch.linspace(0, 1, 200)[:, None]
    >>> bool(KSG()(x, x) > 3)
    True
    """

    name: ClassVar[str] = "ksg"
    is_differentiable: ClassVar[bool] = False

    def __init__(self, k: int | None = None) -> None:
        if k is not None and k < 1:
            raise ValueError(f"k={k}: at least 1 neighbour is needed")
        self.k = k

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        samples = [_normal_scores(layer.detach().double().cpu().numpy()) for layer in layers]
        nats = [self._pair(x, y) for x, y in paired(samples, partner)]
        return layers[0].new_tensor(nats)

    def ceiling(self, n: int) -> float:
        """The estimate on n samples if no neighbourhood in x or y contains more than the k neighbours."""
        from scipy.special import digamma

        k = min(NEIGHBOURS[0] if self.k is None else self.k, n - 1)
        return max(math.log(n), float(digamma(n) - digamma(k)))

    def _pair(self, x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
        n, units = len(x), x.shape[1] + y.shape[1]
        if self.k is not None or units > WIDEST:
            return float(_ksg(x, y, [min(self.k or 3, n - 1)])[0])
        neighbours = sorted({min(k, n - 1) for k in NEIGHBOURS})
        nats = _ksg(x, y, neighbours)
        if len(neighbours) > 1:
            cost = np.array(neighbours) ** (2 / units)
            nats = np.polynomial.polynomial.polyfit(cost, nats, 1)
        return min(float(nats[0]), self.ceiling(n))


NEIGHBOURS = (2, 4, 8, 16)
"""Numbers of neighbours from which the estimate is extrapolated."""

WIDEST = 6
"""Maximum number of units of a pair for which the estimate is extrapolated."""


def _normal_scores(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Map each unit to normal quantiles by rank; equal values get equal scores."""
    from scipy.special import ndtri
    from scipy.stats import rankdata

    scores = ndtri((rankdata(rows, axis=0) - 0.5) / len(rows))
    return np.asarray(scores / math.sqrt(rows.shape[1]))


def _ksg(x: NDArray[np.float64], y: NDArray[np.float64], neighbours: list[int]) -> NDArray[np.float64]:
    """One estimate for each number of neighbours, in ascending order."""
    from scipy.special import digamma
    from sklearn.neighbors import NearestNeighbors

    joint = np.hstack([x, y])
    nearest = NearestNeighbors(metric="chebyshev", n_neighbors=neighbours[-1]).fit(joint)
    order = nearest.kneighbors(return_distance=False)
    # (numbers of neighbours, n): distance to the furthest of the k nearest
    reach_x, reach_y = (
        np.maximum.accumulate(np.abs(rows[order] - rows[:, None]).max(2), 1).T[np.array(neighbours) - 1]
        for rows in (x, y)
    )
    near_x, near_y = _count(x, reach_x), _count(y, reach_y)
    k = np.array(neighbours)[:, None]
    found = digamma(k) - np.where((reach_x > 0) & (reach_y > 0), 1 / k, 0)
    # If the k neighbours are duplicates, the duplicates are counted instead, both in x and y and in (x, y).
    _, symbol, copies = np.unique(joint, axis=0, return_inverse=True, return_counts=True)
    duplicate = (reach_x == 0) & (reach_y == 0)
    found = np.where(duplicate, digamma(copies[symbol.reshape(-1)]), found)
    nats = found + digamma(len(x)) - digamma(near_x + duplicate) - digamma(near_y + duplicate)
    return np.asarray(nats.mean(1))


def _count(rows: NDArray[np.float64], reach: NDArray[np.float64]) -> NDArray[np.int64]:
    """Count the other rows within ``reach[r, i]`` of row i, (number of reaches, n)."""
    if rows.shape[1] == 1:
        values = rows[:, 0]
        ordered, rounding = np.sort(values), 1e-12
        upper = np.searchsorted(ordered, values + reach + rounding, side="right")
        return np.asarray(upper - np.searchsorted(ordered, values - reach - rounding, side="left") - 1)
    samples, limits = torch.from_numpy(rows), torch.from_numpy(reach)
    counts = []
    for part, limit in zip(samples.split(CHUNK), limits.split(CHUNK, 1), strict=True):
        distances = torch.cdist(part, samples, p=math.inf)
        counts.append(torch.stack([(distances <= within[:, None]).sum(1) - 1 for within in limit]))
    return np.asarray(torch.cat(counts, 1).numpy())


CHUNK = 512
"""Number of rows of distances computed at once."""


class HardBinning(PairEstimator):
    """MI of binned layers, where every distinct row of bins is a symbol.

    This is the estimator of the information-plane literature. In wide layers every row becomes its own symbol,
    and the estimate is log n regardless of the dependence.

    Args:
        bins: equally wide bins per unit, from its smallest to its largest value; None means
            ``round(2 n^(1/3))``, at least 4.

    Source: Shwartz-Ziv & Tishby, Opening the black box of deep neural networks via information,
    arXiv:1703.00810, 2017; Saxe et al., On the information bottleneck theory of deep
    learning, ICLR 2018, for its limits.

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

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        from sklearn.metrics import mutual_info_score

        symbols = [self._symbols(layer.detach().double().cpu().numpy()) for layer in layers]
        return layers[0].new_tensor([float(mutual_info_score(x, y)) for x, y in paired(symbols, partner)])

    def _symbols(self, rows: NDArray[np.float64]) -> NDArray[np.int64]:
        bins = self.bins if self.bins is not None else max(4, round(2 * len(rows) ** (1 / 3)))
        low, high = rows.min(0), rows.max(0)
        share = (rows - low) / np.where(high > low, high - low, 1)
        cells = np.minimum((share * bins).astype(np.int64), bins - 1)
        return np.asarray(np.unique(cells, axis=0, return_inverse=True)[1]).reshape(-1)
