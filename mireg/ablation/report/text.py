"""Numbers of a summary as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from mireg.ablation.study.metric import Metric


def metric_name(cell: dict[str, Any]) -> str:
    """Name of the final metric of a cell, with its split."""
    return f"{cell['final_split']} {cell['metric']}"


def number_text(value: float | None, missing: str, form: str) -> str:
    """Format a number, or return the text for a missing one."""
    return missing if value is None else format(value, form)


def ratio_text(value: float | None, bound: str | None, interval: Sequence[float] | None) -> str:
    """Format a ratio with its bound and interval.

    >>> ratio_text(10, "at least", [8, 12.5])
    '≥10.0x [8.0, 12.5]'
    """
    if value is None:
        return ""
    sign = {"at least": "≥", "at most": "≤", None: ""}[bound]
    return f"{sign}{value:.1f}x" + (f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else "")


def mean_text(cell: dict[str, Any], value: dict[str, Any]) -> str:
    """Format a mean of the cell's metric with its interval; a share in per cent."""
    mean, interval = value["mean"], value["ci95"]
    if mean is None:
        return ""
    if Metric.of(cell).is_share:
        return f"{mean:.1%}" + (f" [{100 * interval[0]:.1f}, {100 * interval[1]:.1f}]" if interval else "")
    return f"{mean:.4g}" + (f" [{interval[0]:.4g}, {interval[1]:.4g}]" if interval else "")


def difference_text(cell: dict[str, Any], value: dict[str, Any] | None) -> str:
    """Format a difference of the cell's metric with its interval; a share in percentage points."""
    if value is None or value["mean"] is None:
        return ""
    scale, form = (100, "+.1f") if Metric.of(cell).is_share else (1, "+.3g")
    mean, interval = scale * value["mean"], [scale * edge for edge in value["ci95"] or ()]
    return format(mean, form) + (f" [{interval[0]:{form}}, {interval[1]:{form}}]" if interval else "")
