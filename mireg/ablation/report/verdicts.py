"""Verdicts of a comparison in sentences, on the speed to the goal and on the final metric."""

from __future__ import annotations

from typing import Any

from mireg.ablation.report.statistics import CONFIDENCE
from mireg.ablation.report.summary import difference_key, final_key
from mireg.ablation.report.text import difference_text, metric_name, ratio_text
from mireg.ablation.study.metric import Metric

SEEDS_FOR_A_TEST = 6
"""With fewer pairs an exact two-sided test cannot give p < 0.05."""

SEEDS_FOR_A_VERDICT = 5
"""With fewer pairs a bootstrap interval often excludes 1 by chance: without a true difference, in one of four studies
with 3 pairs, in one of nine with 4, in one of twenty with 5."""

TOO_FEW = "too few seeds to say"
NO_DIFFERENCE = "no difference shown"


def headline(cell: dict[str, Any]) -> str:
    """The verdict on the first arm after the baseline, and the other arms grouped by verdict."""
    compared = _compared(cell)
    if not compared:
        return f"There is nothing to compare: the baseline {cell['baseline']!r} or every other arm is missing."
    first, *others = compared
    few = compared[first]["vs_none"]["n_pairs"] < SEEDS_FOR_A_VERDICT  # as its own verdict says already
    groups: dict[tuple[int, str], list[str]] = {}
    for name in others:
        speed = None if cell["target"] is None else speed_verdict(compared[name])
        words = [] if speed is None else ["no difference in speed shown" if speed == NO_DIFFERENCE else speed]
        if (end := final_verdict(cell, compared[name])) in ENDS:
            words.append(f"{end} in the end")
        if words and not (few and speed == TOO_FEW):
            order = ENDS.index(end) if speed is None else SPEEDS.index(speed)
            groups.setdefault((order, ", ".join(words)), []).append(name)
    grouped = (f"{words.capitalize()}: {', '.join(names)}." for (_, words), names in sorted(groups.items()))
    return " ".join([verdicts(cell)[first], *grouped])


SPEEDS = ("faster", "slower", NO_DIFFERENCE, TOO_FEW)
ENDS = ("better", "worse")


def verdicts(cell: dict[str, Any]) -> dict[str, str]:
    """Sentences per arm: whether it was faster and ended better than the baseline, and how certain this is."""
    compared = _compared(cell).items()
    if cell["target"] is None:
        return {name: _end(cell, arm, name) for name, arm in compared}
    return {name: f"{_speed(cell, name, arm)} {_end(cell, arm, 'It')}" for name, arm in compared}


def _compared(cell: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The arms that were compared with the baseline."""
    return {name: arm for name, arm in cell["arms"].items() if arm.get("vs_none")}


def _speed(cell: dict[str, Any], name: str, arm: dict[str, Any]) -> str:
    versus, goal, baseline = arm["vs_none"], Metric.of(cell).show(cell["target"]), cell["baseline"]
    ours = f"{name} reached {goal} {_how_often(cell, arm)}"
    pairs = versus["n_pairs"]
    few = f" (too few seeds for a test: {pairs})" if SEEDS_FOR_A_VERDICT <= pairs < SEEDS_FOR_A_TEST else ""
    verdict = f"{speed_verdict(arm)}{few}"
    if versus["steps_ratio"] is None or versus["bound"]:
        return f"{ours}, {baseline} {_how_often(cell, cell['arms'][baseline])}: {verdict}."
    interval = versus["ci95"]
    sure = f"95% interval {interval[0]:.1f} to {interval[1]:.1f}" if interval else "no interval from one seed"
    return f"{ours}, {ratio_text(versus['steps_ratio'], None)} the speed of {baseline} ({sure}): {verdict}."


def _how_often(cell: dict[str, Any], arm: dict[str, Any]) -> str:
    median, reached, seeds = arm["steps_to_target"]["median"], arm["n_reached"], arm["n_seeds"]
    if reached == 0:
        return f"on 0 of {seeds} seeds in {cell['budget_steps']} steps"
    typical = f"not in {cell['budget_steps']} steps in the median" if median is None else f"median {median:.0f} steps"
    return f"on {reached} of {seeds} seeds ({typical})"


def bounds(cell: dict[str, Any]) -> str:
    """The speeds of which only a bound is known, in a sentence; empty if there are none."""
    found = [
        f"{name} {arm['vs_none']['bound']} {arm['vs_none']['steps_ratio']:.1f}x"
        for name, arm in _compared(cell).items()
        if arm["vs_none"]["bound"]
    ]
    if not found:
        return ""
    budget = f"Bounds on the speed, if a miss counts as the whole budget of {cell['budget_steps']} steps"
    return f"{budget}: {', '.join(found)}. A larger budget would move them."


def _end(cell: dict[str, Any], arm: dict[str, Any], name: str) -> str:
    metric = Metric.of(cell)
    ours, theirs = arm[final_key(metric)]["mean"], cell["arms"][cell["baseline"]][final_key(metric)]["mean"]
    if ours is None or theirs is None:
        return f"{name} has no {metric_name(cell)} to compare: its runs or those of {cell['baseline']} broke."
    unit = " points" if metric.is_share else ""
    difference = difference_text(cell, arm.get(difference_key(metric)))
    return (
        f"{name} ended at {metric.show(ours, 1)} {metric_name(cell)}, {cell['baseline']} at {metric.show(theirs, 1)} "
        f"({difference}{unit}): {final_verdict(cell, arm)}."
    )


def speed_verdict(arm: dict[str, Any]) -> str:
    """Faster or slower if there are enough seeds, the interval excludes 1 and the test, if possible, agrees."""
    versus = arm["vs_none"]
    if versus["n_pairs"] < SEEDS_FOR_A_VERDICT:
        return TOO_FEW
    low, high = versus["ci95"] or (0.0, float("inf"))
    is_tested = versus["n_pairs"] >= SEEDS_FOR_A_TEST and versus["p_value"] is not None
    if versus["steps_ratio"] is None or (is_tested and versus["p_value"] > 1 - CONFIDENCE):
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
