"""Verdicts of a comparison in sentences, on the speed to the target and on the final metric."""

from __future__ import annotations

from typing import Any

from mireg.ablation.arms import BASELINE
from mireg.ablation.report.statistics import CONFIDENCE
from mireg.ablation.report.summary import difference_key, final_key
from mireg.ablation.report.text import difference_text, metric_name, number_text, ratio_text
from mireg.ablation.study.metric import Metric

SEEDS_FOR_A_TEST = 6
"""With fewer pairs an exact two-sided test cannot give p < 0.05."""

SEEDS_FOR_A_VERDICT = 5
"""With fewer pairs a bootstrap interval often excludes 1 by chance: without a true difference, in one of four studies
with 3 pairs, in one of nine with 4, in one of twenty with 5."""

TOO_FEW = "too few seeds to say"
NO_DIFFERENCE = "no difference shown"

SPEEDS = ("faster", "slower", NO_DIFFERENCE, TOO_FEW)
ENDS = ("better", "worse")


def headline(cell: dict[str, Any]) -> str:
    """The verdict on the first arm after the baseline, and the other arms grouped by verdict."""
    compared = {name: arm for name, arm in cell["arms"].items() if arm.get("vs_none")}
    if not compared:
        return f"There is nothing to compare: the baseline {BASELINE!r} or every other arm is missing."
    first, *others = compared
    parts = [verdicts(cell)[first]]
    if cell["target"] is not None:
        parts += _grouped({name: speed_verdict(compared[name]) for name in others}, SPEEDS, "{}")
    parts += _grouped({name: final_verdict(cell, compared[name]) for name in others}, ENDS, "{} in the end")
    return " ".join(parts)


def _grouped(found: dict[str, str], words: tuple[str, ...], form: str) -> list[str]:
    named = {word: [name for name in found if found[name] == word] for word in words}
    return [f"{form.format(word.capitalize())}: {', '.join(names)}." for word, names in named.items() if names]


def verdicts(cell: dict[str, Any]) -> dict[str, str]:
    """Sentences per arm: whether it was faster and ended better than the baseline, and how certain this is."""
    sentences = {}
    for name, arm in cell["arms"].items():
        if not arm.get("vs_none"):
            continue
        if cell["target"] is None:
            sentences[name] = _end(cell, arm, name)
        else:
            sentences[name] = f"{_speed(cell, name, arm)} {_end(cell, arm, 'It')}"
    return sentences


def _speed(cell: dict[str, Any], name: str, arm: dict[str, Any]) -> str:
    versus, target = arm["vs_none"], Metric.of(cell).show(cell["target"])
    reached = f"{name} reached {target} on {arm['n_reached']} of {arm['n_seeds']} seeds"
    if versus["steps_ratio"] is None:
        return f"{reached}: the median of neither it nor {BASELINE} reached it in {cell['budget_steps']} steps."
    median = number_text(arm["steps_to_target"]["median"], "no median", ".0f")
    factor = ratio_text(versus["steps_ratio"], versus["bound"], None)
    interval = versus["ci95"]
    sure = f"95% interval {interval[0]:.1f} to {interval[1]:.1f}" if interval else "no interval from one seed"
    return (
        f"{reached} (median {median} steps), {factor} the speed of {BASELINE} ({sure}): "
        f"{speed_verdict(arm)}{_few(versus['n_pairs'])}."
    )


def _end(cell: dict[str, Any], arm: dict[str, Any], name: str) -> str:
    metric = Metric.of(cell)
    ours, theirs = arm[final_key(metric)]["mean"], cell["arms"][BASELINE][final_key(metric)]["mean"]
    if ours is None or theirs is None:
        return f"{name} has no {metric_name(cell)} to compare: its runs or those of {BASELINE} broke."
    unit = " points" if metric.is_share else ""
    difference = difference_text(cell, arm.get(difference_key(metric)))
    return (
        f"{name} ended at {metric.show(ours, 1)} {metric_name(cell)}, {BASELINE} at {metric.show(theirs, 1)} "
        f"({difference}{unit}): {final_verdict(cell, arm)}."
    )


def _few(pairs: int) -> str:
    return f" (too few seeds for a test: {pairs})" if SEEDS_FOR_A_VERDICT <= pairs < SEEDS_FOR_A_TEST else ""


def speed_verdict(arm: dict[str, Any]) -> str:
    """Faster or slower if there are enough seeds, the interval excludes 1 and the test, if possible, agrees."""
    versus = arm["vs_none"]
    if versus["n_pairs"] < SEEDS_FOR_A_VERDICT:
        return TOO_FEW
    low, high = versus["ci95"] or (0.0, float("inf"))
    refuted = (
        versus["n_pairs"] >= SEEDS_FOR_A_TEST and versus["p_value"] is not None and versus["p_value"] > 1 - CONFIDENCE
    )
    if versus["steps_ratio"] is None or refuted:
        return NO_DIFFERENCE
    return "faster" if low > 1 else "slower" if high < 1 else NO_DIFFERENCE


def final_verdict(cell: dict[str, Any], arm: dict[str, Any]) -> str:
    """Better or worse if there are enough seeds and the interval of the paired difference excludes 0."""
    metric = Metric.of(cell)
    if arm["vs_none"]["n_pairs"] < SEEDS_FOR_A_VERDICT:
        return TOO_FEW
    interval = arm[difference_key(metric)]["ci95"]
    if interval is None or interval[0] <= 0 <= interval[1]:
        return NO_DIFFERENCE
    return "better" if metric.gain(interval[0]) > 0 else "worse"
