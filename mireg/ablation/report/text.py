"""Numbers of a summary as text."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mireg.ablation.study.metric import Metric


def metric_name(cell: Mapping[str, Any], split: str | None = None) -> str:
    """Name of a metric with its split, by default that of the final one; not twice, as in "validation val_loss"."""
    split, name = split or cell["final_split"], cell["metric"]
    return name if name.lower().startswith(("val", "test", "eval", "dev")) else f"{split} {name}"


def number_text(value: float | None, missing: str, form: str) -> str:
    """Format a number, or return the text for a missing one."""
    return missing if value is None else format(value, form)


def ratio_text(value: float, interval: Sequence[float] | None) -> str:
    """Format a ratio with its interval.

    >>> ratio_text(10, [8, 12.5])
    '10.0x [8.0, 12.5]'
    """
    return f"{value:.1f}x" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def speed_text(versus: Mapping[str, Any], ours: str = "with it", theirs: str = "without it") -> str:
    """How much faster an arm reaches the goal; where a median never reaches it, how many seeds do, and no number.

    Args:
        versus: comparison of the arm with another one, see :func:`mireg.ablation.report.summary.versus`.
        ours: the arm, in such a text.
        theirs: the other one.

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


def seconds_text(versus: Mapping[str, Any]) -> str:
    """The speed in seconds; empty where a median never reaches the goal."""
    if versus.get("bound") or versus.get("seconds_ratio") is None:
        return ""
    return ratio_text(versus["seconds_ratio"], versus["seconds_ci95"])


def mean_text(cell: Mapping[str, Any], value: Mapping[str, Any]) -> str:
    """Format a mean of the cell's metric with its interval; a share in per cent."""
    mean, interval = value["mean"], value["ci95"]
    if mean is None:
        return ""
    if Metric.of(cell).is_share:
        return f"{mean:.1%}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")
    return f"{mean:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")


def difference_text(cell: Mapping[str, Any], value: Mapping[str, Any] | None) -> str:
    """Format a difference of the cell's metric with its interval; a share in percentage points."""
    if value is None or value["mean"] is None:
        return ""
    scale, form = (100, "+.1f") if Metric.of(cell).is_share else (1, "+.3g")
    mean, interval = scale * value["mean"], [scale * edge for edge in value["ci95"] or ()]
    return format(mean, form) + (f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else "")
