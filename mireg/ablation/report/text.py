"""Numbers of a summary as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mireg.ablation.study.metric import Metric


def metric_name(cell: Mapping[str, Any], split: str | None = None) -> str:
    """Name of a metric with its split, by default that of the final one; not twice, as in "validation val_loss"."""
    split, name = split or cell["final_split"], cell["metric"]
    return name if name.lower().startswith(("val", "test", "eval", "dev")) else f"{split} {name}"


def number_text(value: float | None, form: str, missing: str = "") -> str:
    """Format a number, or return the text for a missing one."""
    return missing if value is None else format(value, form)


def interval_text(
    value: float | None, interval: Sequence[float] | None, form: str, *, scale: float = 1.0, unit: str = ""
) -> str:
    """Format a number with its interval; empty for a missing one.

    >>> interval_text(0.5, [0.25, 0.75], ".0f", scale=100, unit="%")
    '50% [25, 75]'
    """
    if value is None:
        return ""
    edges = f" [{', '.join(format(scale * edge, form) for edge in interval)}]" if interval else ""
    return f"{scale * value:{form}}{unit}{edges}"


def ratio_text(value: float | None, interval: Sequence[float] | None) -> str:
    """Format a ratio with its interval.

    >>> ratio_text(10, [8, 12.5])
    '10.0x [8.0, 12.5]'
    """
    return interval_text(value, interval, ".1f", unit="x")


def speed_text(versus: Mapping[str, Any], ours: str = "with it", theirs: str = "without it") -> str:
    """How much faster an arm reaches the goal; where a median never reaches it, how many seeds do, and no number.

    It is made of a comparison of one arm, ``ours``, with another (:func:`mireg.ablation.report.summary.versus`).

    >>> speed_text({"n_pairs": 6, "reached": [6, 0], "steps_ratio": 15.0, "bound": "at least", "ci95": [15, 15]})
    'only with it: 6/6 vs 0/6'
    """
    if not versus.get("reached"):
        return ""
    pairs, (reached, other) = versus["n_pairs"], versus["reached"]
    if versus["steps_ratio"] is not None and versus["bound"] is None:
        return ratio_text(versus["steps_ratio"], versus["ci95"])
    counts = f"{reached}/{pairs} vs {other}/{pairs}"
    if versus["steps_ratio"] is None:
        return f"neither: {counts}"
    winner, fewest = (ours, other) if versus["bound"] == "at least" else (theirs, reached)
    return f"{'mostly' if fewest else 'only'} {winner}: {counts}"


def mean_text(cell: Mapping[str, Any], value: Mapping[str, Any], digits: int = 1) -> str:
    """Format a mean of the cell's metric with its interval; a share in per cent, with some digits."""
    if Metric.of(cell).is_share:
        return interval_text(value["mean"], value["ci95"], f".{digits}f", scale=100, unit="%")
    return interval_text(value["mean"], value["ci95"], ".4g")


def difference_text(cell: Mapping[str, Any], value: Mapping[str, Any] | None) -> str:
    """Format a difference of the cell's metric with its interval; a share in percentage points."""
    if value is None:
        return ""
    scale, form = (100, "+.1f") if Metric.of(cell).is_share else (1, "+.3g")
    return interval_text(value["mean"], value["ci95"], form, scale=scale)
