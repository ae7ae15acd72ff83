"""Statistics of steps to a target, with misses, paired seeds, intervals and exact tests."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from scipy import stats

CONFIDENCE = 0.95
RESAMPLES = 10_000


def median(values: Sequence[float | None]) -> float | None:
    """Median in which a miss (None) counts as infinity; None if the median is infinite.

    >>> median([100, 200, None])
    200.0
    >>> median([100, None, None]) is None
    True
    """
    middle = float(np.median([math.inf if value is None else value for value in values]))
    return middle if math.isfinite(middle) else None


Limit = float | Sequence[float]
"""Where misses are censored: one number, or one for each run."""


def ratio(
    baseline: Sequence[float | None], arm: Sequence[float | None], limit: Limit, baseline_limit: Limit | None = None
) -> dict[str, Any]:
    """Speed of the arm relative to the baseline: median of the baseline over median of the arm.

    Args:
        baseline: steps or seconds to target by seed, None for a miss.
        arm: the same for the arm, with the same seeds.
        limit: budget that a miss counts as, so that a ratio with a missed median is a bound.
        baseline_limit: the same for the baseline, if it differs.

    Returns:
        ``ratio`` (None if both medians are misses, or a value is 0), ``bound`` (None, ``"at least"`` or ``"at most"``),
        and ``ci95``, a percentile bootstrap over paired seeds (None with fewer than 2).

    >>> found = ratio([600, None, None], [100, 200, 125], limit=1000)
    >>> found["ratio"], found["bound"]
    (8.0, 'at least')
    """
    ours, theirs = _censored(arm, limit), _censored(baseline, limit if baseline_limit is None else baseline_limit)
    if not (ours.all() and theirs.all()):  # a goal reached in no time has no speed
        return {"ratio": None, "bound": None, "ci95": None}
    missed = (median(baseline) is None, median(arm) is None)
    bound = {(True, False): "at least", (False, True): "at most"}.get(missed)
    interval = None
    if len(ours) >= 2:
        pick = np.random.default_rng(0).integers(len(ours), size=(RESAMPLES, len(ours)))
        ratios = np.median(theirs[pick], axis=1) / np.median(ours[pick], axis=1)
        tail = 50 * (1 - CONFIDENCE)
        interval = np.percentile(ratios, [tail, 100 - tail]).tolist()
    found = None if all(missed) else float(np.median(theirs) / np.median(ours))
    return {"ratio": found, "bound": bound, "ci95": interval}


def paired_p_value(baseline: Sequence[float | None], arm: Sequence[float | None], limit: float) -> float | None:
    """Two-sided permutation test on the mean log ratio of paired seeds; None with fewer than 2.

    With n seeds the p-value is at least 2^(1-n). It is exact up to 16 seeds; with more, it uses random swaps.
    """
    if len(arm) < 2:
        return None
    logs = np.log(_censored(baseline, limit)), np.log(_censored(arm, limit))
    if np.array_equal(*logs):
        return 1.0
    test = stats.permutation_test(
        logs,
        lambda x, y, axis: np.mean(x - y, axis=axis),
        permutation_type="samples",
        n_resamples=2**16,
        rng=np.random.default_rng(0),
    )
    return float(test.pvalue)


def logrank_p_value(baseline: Sequence[float | None], arm: Sequence[float | None], limit: float) -> float | None:
    """Log-rank test on the times to target, with misses censored at the limit; None if no run reached the target."""
    if len(arm) < 2 or not any(value is not None for value in (*baseline, *arm)):
        return None
    samples = [
        stats.CensoredData.right_censored(_censored(values, limit), [value is None for value in values])
        for values in (baseline, arm)
    ]
    with np.errstate(invalid="ignore"):  # 0/0 if all runs reach the target at the same step
        p = float(stats.logrank(*samples).pvalue)
    return p if math.isfinite(p) else None


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Adjust p-values for multiple tests; None, for a missing test, stays None and is not counted.

    Source: Holm, A simple sequentially rejective multiple test procedure, Scandinavian Journal of
    Statistics 6, 1979.

    >>> holm([0.01, 0.04, None, 0.03])
    [0.03, 0.06, None, 0.06]
    """
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    adjusted: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for rank, (p, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - rank) * p))
        adjusted[index] = largest
    return adjusted


def student(values: Sequence[float]) -> tuple[float, float]:
    """Mean, and half the width of its Student interval."""
    half = stats.t.ppf((1 + CONFIDENCE) / 2, len(values) - 1) * stats.sem(values)
    return float(np.mean(values)), float(half)


def _censored(values: Sequence[float | None], limit: Limit) -> np.ndarray:
    found = np.array(values, dtype=float)  # None becomes NaN
    return np.where(np.isnan(found), limit, found)
