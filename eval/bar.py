"""The bar: requirements on the convergence study, line by line, and whether its raw runs meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.cells import CONVERGENCE
from mireg.ablation.report.statistics import CONFIDENCE, RESAMPLES, student
from mireg.ablation.report.summary import difference_key
from mireg.ablation.report.text import interval_text
from mireg.ablation.report.verdicts import SEEDS_FOR_A_VERDICT
from mireg.ablation.study.metric import Metric

MET, NOT_MET, NOT_RUN, UNDEFINED = "met", "not met", "not run", "undefined"

NOISE = 0.001
"""Maximum loss of final accuracy beyond noise: 0.1 points."""

SPEEDS = {"R5": 1.8, "H1": 2.0, "H2": 1.5, "H4": 2.0, "H6": 1.6, "H7": 1.25, "H3": 1.2}
"""Required factor by which the term needs fewer steps than the baseline."""

WITHIN = {"R1": 75, "R2": 100, "R3": 125, "R6": 125}
"""Maximum median steps to target; each seed may take twice as many."""

SAVED = {"P1": 0.12, "P3": 0.20, "P4": 0.05}
"""Required share of the baseline's steps that the term saves."""

IN_SECONDS = ("R1", "R2", "R3", "R4", "R5", "R6", "H2", "H4", "H6", "P1", "P3")
AGAINST_HEADS = ("R1", "R2", "R3", "H1", "H2", "H4", "H6")


@dataclass(frozen=True)
class Line:
    """One line of the bar.

    Attributes:
        cell: the cell or cells.
        required: the requirement.
        measured: the measured value with its interval.
        status: :data:`MET`, :data:`NOT_MET`, :data:`NOT_RUN`, or :data:`UNDEFINED` if the runs have no such quantity.
    """

    cell: str
    required: str
    measured: str
    status: str


class NotRunError(Exception):
    """A cell or an arm has no runs, or too few for an interval."""


class UndefinedError(Exception):
    """The runs are there, but the quantity does not exist for them."""


class Study:
    """A summary and its runs; accessing missing data raises :class:`NotRunError`."""

    def __init__(self, summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> None:
        self._cells = {cell["cell"]: cell for cell in summary["cells"]}
        self._results = results

    def cell(self, name: str) -> dict[str, Any]:
        """A cell of the summary."""
        if name not in self._cells:
            raise NotRunError("the cell has no runs")
        cell: dict[str, Any] = self._cells[name]
        return cell

    def arm(self, cell: str, name: str) -> dict[str, Any]:
        """An arm of a cell, with enough seeds for a verdict."""
        arms = self.cell(cell)["arms"]
        if name not in arms:
            raise NotRunError(f"`{name}` has no runs")
        found: dict[str, Any] = arms[name]
        if found["n_seeds"] < SEEDS_FOR_A_VERDICT:
            raise NotRunError(f"{found['n_seeds']} seeds are too few to say")
        return found

    def versus(self, cell: str, name: str, key: str = "vs_none") -> dict[str, Any]:
        """The comparison of an arm with the baseline, or of the term with another arm (``key``)."""
        arm = self.arm(cell, name)
        found = arm.get("vs_none") if key == "vs_none" else arm.get("over", {}).get(key)
        if not found:
            raise NotRunError(f"nothing to compare `{name}` with")
        return dict(found)

    def at(self, cell: str, arm: str, step: int) -> dict[int, float]:
        """The validation metric at a step, by seed."""
        self.arm(cell, arm)
        key = Metric.of(self.cell(cell)).validation
        runs = [run for run in self._results if run["cell"] == cell and run["arm"] == arm]
        found = {
            run["seed"]: next((p[key] for p in run["curve"] if p["step"] == step), 0.0 if run["failure"] else None)
            for run in runs
        }
        if None in found.values():
            raise NotRunError(f"nothing was measured at step {step}")
        return {seed: value for seed, value in found.items() if value is not None}


def median_interval(values: Sequence[float | None]) -> tuple[float, float, float]:
    """Median of steps to target, with misses infinite, and its percentile bootstrap interval."""
    steps = np.array([math.inf if value is None else value for value in values])
    pick = np.random.default_rng(0).integers(len(steps), size=(RESAMPLES, len(steps)))
    with np.errstate(invalid="ignore"):
        medians = np.nan_to_num(np.median(steps[pick], axis=1), nan=math.inf, posinf=math.inf)
    medians.sort()
    tail = (1 - CONFIDENCE) / 2
    low, high = medians[int(tail * RESAMPLES)], medians[min(RESAMPLES - 1, int((1 - tail) * RESAMPLES))]
    return float(np.median(steps)), float(low), float(high)


def lines(summary: Mapping[str, Any], results: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Every line of the bar, in order."""
    study = Study(summary, results)
    found: list[Line] = []

    def require(cell: str, required: str, check: Callable[..., tuple[str, bool]], *args: Any) -> None:
        """Add a line; ``check`` is called with the study, the cell and ``args``."""
        try:
            measured, good = check(study, cell, *args)
            found.append(Line(cell, required, measured, MET if good else NOT_MET))
        except NotRunError as missing:
            found.append(Line(cell, required, str(missing), NOT_RUN))
        except UndefinedError as reason:
            found.append(Line(cell, required, str(reason), UNDEFINED))

    for cell, steps in WITHIN.items():
        require(cell, f"{steps} steps to target in the median, each seed within {2 * steps}", _within, steps)
    require("R3", "at least 80% at step 300 on every seed", _lowest, 300, 0.8)
    require("R4", "at least as good as `he` at step 600", _as_good_as, "he", 600)
    for cell, speed in SPEEDS.items():
        require(cell, f"at least {speed:g} times fewer steps than `none`", _speed, "vs_none", speed)
    for cell in ("H3", "H5", "P2"):
        require(cell, "not slower than 0.95 times `none`", _unharmed)
        require(cell, "ends at most 0.1 points below `none` beyond noise", _ends, -NOISE)
    for cell, share in SAVED.items():
        require(cell, f"saves at least {share:.0%} of the steps", _saves, share)
        require(cell, "ends no worse than `none`", _ends, 0.0)
    require("P5", "ends at least 0.4 points above `none`, interval above 0", _higher)
    cells = [cell.name for cell in CONVERGENCE.cells if not cell.budget_of]
    for cell in IN_SECONDS:
        require(cell, "faster than `none` in seconds", _seconds, 1.0)
    for cell in cells:
        if cell not in IN_SECONDS:
            require(cell, "at most 5% slower in seconds", _seconds, 0.95)
    for cell in cells:
        require(cell, "`target-shuffled` is not faster than `none`", _control)
    for cell in ("R3", "H4"):
        require(cell, "at least 2 times fewer steps than `target-shuffled`", _speed, "target-shuffled", 2)
    for cell in ("R1", "R3"):
        require(cell, "`pairs-shuffled` never starts", _never)
    for cell in AGAINST_HEADS:
        require(cell, "not slower than `deep-supervision`", _not_slower)
    require(", ".join(AGAINST_HEADS), "faster than `deep-supervision` on at least 3", _count)
    return found


def _within(study: Study, cell: str, steps: float) -> tuple[str, bool]:
    values = study.arm(cell, "mi")["steps_to_target"]["values"]
    median, low, high = median_interval(values)
    worst = max(math.inf if value is None else value for value in values)
    text = f"{_steps(median)} [{_steps(low)}, {_steps(high)}], slowest {_steps(worst)}"
    return text, high <= steps and worst <= 2 * steps


def _steps(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:g}"


def _lowest(study: Study, cell: str, step: int, bar: float) -> tuple[str, bool]:
    values = list(study.at(cell, "mi", step).values())
    above = sum(value >= bar for value in values)
    return f"{above} of {len(values)} seeds; lowest {min(values):.1%}, highest {max(values):.1%}", above == len(values)


def _as_good_as(study: Study, cell: str, arm: str, step: int) -> tuple[str, bool]:
    ours, theirs = study.at(cell, "mi", step), study.at(cell, arm, step)
    gains = [ours[seed] - theirs[seed] for seed in ours if seed in theirs]
    if len(gains) < 2:
        raise NotRunError("no interval")
    mean, half = student(gains)
    text = f"{np.median(list(ours.values())):.1%} and {np.median(list(theirs.values())):.1%} in the median: "
    return text + f"{_points(mean, (mean - half, mean + half))}", mean - half >= 0


def _speed(study: Study, cell: str, key: str, bar: float) -> tuple[str, bool]:
    return _ratio(study.versus(cell, "mi", key), "steps_ratio", "ci95", bar)


def _ratio(versus: Mapping[str, Any], key: str, interval_key: str, bar: float) -> tuple[str, bool]:
    value, interval = versus[key], versus[interval_key]
    if value is None or interval is None:
        if versus.get("steps_ratio", 0) is None:
            return "neither reached the target", False
        raise NotRunError("no interval")
    sign = {"at least": "≥", "at most": "≤"}.get(versus.get("bound") or "", "")
    return f"{sign}{value:.2f} [{interval[0]:.2f}, {interval[1]:.2f}]", interval[0] >= bar


def _saving(study: Study, cell: str, arm: str = "mi") -> dict[str, Any]:
    found = study.arm(cell, arm).get("steps_saved")
    if not found:
        raise NotRunError("`none` has no runs with other budgets")
    if found["ci95"] is None:
        raise UndefinedError("`none` gains nothing by more steps, so none can be saved")
    return dict(found)


def _unharmed(study: Study, cell: str) -> tuple[str, bool]:
    if study.cell(cell)["target"] is not None:
        return _speed(study, cell, "vs_none", 0.95)
    saved = _saving(study, cell)
    mean, low, high = (1 / (1 - share) for share in (saved["mean"], *saved["ci95"]))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]", low >= 0.95


def _saves(study: Study, cell: str, bar: float) -> tuple[str, bool]:
    saved = _saving(study, cell)
    return _percent(saved), saved["ci95"][0] >= bar


def _percent(saved: Mapping[str, Any]) -> str:
    return interval_text(saved["mean"], saved["ci95"], ".0f", scale=100, unit="%")


def _gain(study: Study, cell: str, arm: str = "mi") -> tuple[float, float, float, Metric]:
    """Gain of an arm in the final metric over the baseline, and its interval; positive is better."""
    metric = Metric.of(study.cell(cell))
    found = study.arm(cell, arm).get(difference_key(metric))
    if not found or found["ci95"] is None:
        raise NotRunError("no interval")
    low, high = sorted(metric.gain(edge) for edge in found["ci95"])
    return metric.gain(found["mean"]), low, high, metric


def _ends(study: Study, cell: str, least: float) -> tuple[str, bool]:
    mean, low, high, metric = _gain(study, cell)
    return _better(mean, low, high, metric), high >= least


def _better(mean: float, low: float, high: float, metric: Metric) -> str:
    if metric.is_share:
        return _points(mean, (low, high))
    return interval_text(mean, (low, high), "+.3g", unit=" better")


def _higher(study: Study, cell: str) -> tuple[str, bool]:
    mean, low, high, _ = _gain(study, cell)
    return _points(mean, (low, high)), mean >= 0.004 and low > 0


def _points(mean: float, interval: tuple[float, float]) -> str:
    return interval_text(mean, interval, "+.1f", scale=100, unit=" points")


def _seconds(study: Study, cell: str, bar: float) -> tuple[str, bool]:
    found = _saving(study, cell) if study.cell(cell)["target"] is None else study.versus(cell, "mi")
    text, _ = _ratio(found, "seconds_ratio", "seconds_ci95", bar)
    low = (found["seconds_ci95"] or [0.0])[0]
    return text, low > bar if bar == 1 else low >= bar


def _control(study: Study, cell: str) -> tuple[str, bool]:
    if study.cell(cell)["target"] is None:
        try:
            saved = _saving(study, cell, "target-shuffled")
        except UndefinedError:
            mean, low, high, metric = _gain(study, cell, "target-shuffled")
            return f"ends {_better(mean, low, high, metric)}", low <= 0
        return f"saves {_percent(saved)}", saved["ci95"][0] <= 0
    versus = study.versus(cell, "target-shuffled")
    if versus["steps_ratio"] is None:
        return "neither reached the target", True
    text, _ = _ratio(versus, "steps_ratio", "ci95", 1)
    return text, versus["ci95"][0] <= 1


def _never(study: Study, cell: str) -> tuple[str, bool]:
    arm = study.arm(cell, "pairs-shuffled")
    return f"{arm['n_reached']} of {arm['n_seeds']} seeds reach the target", arm["n_reached"] == 0


def _not_slower(study: Study, cell: str) -> tuple[str, bool]:
    versus = study.versus(cell, "mi", "deep-supervision")
    text, _ = _ratio(versus, "steps_ratio", "ci95", 1)
    return text, versus["steps_ratio"] is not None and versus["ci95"][1] >= 1


def _count(study: Study, _: str) -> tuple[str, bool]:
    faster, missing = [], 0
    for cell in AGAINST_HEADS:
        try:
            versus = study.versus(cell, "mi", "deep-supervision")
            _ratio(versus, "steps_ratio", "ci95", math.inf)  # or it has no interval
            faster += [cell] if versus["ci95"] and versus["ci95"][0] > 1 else []
        except NotRunError:
            missing += 1
    if missing and len(faster) < 3:
        raise NotRunError(f"{missing} of these cells have no runs")
    return f"{len(faster)}: {', '.join(faster) or 'none'}", len(faster) >= 3
