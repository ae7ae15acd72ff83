"""The bar: requirements on the convergence study, line by line, and whether its raw runs meet them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.cells import CONTROLS, CONVERGENCE, EXPERT
from eval.story import best, reached
from mireg.ablation.report.statistics import CONFIDENCE, RESAMPLES, student
from mireg.ablation.report.summary import difference_key, final_key
from mireg.ablation.report.text import interval_text
from mireg.ablation.report.verdicts import SEEDS_FOR_A_VERDICT
from mireg.ablation.study.metric import Metric

MET, NOT_MET, NOT_RUN, UNDEFINED = "met", "not met", "not run", "undefined"

NATURAL = ("N1", "N1a", "N2", "N3", "N4", "N5", "N5s", "N6", "N6b", "P7")
"""Networks as people build them."""

TWICE = {**dict.fromkeys(NATURAL, 2.0), "N3": 1.5}
"""Required factor by which the baseline is later than the term on those, or never."""

SPEEDS = {"R5": 1.8, "H1": 2.0, "H2": 1.5, "H4": 1.7, "H6": 1.8, "H7": 1.25}
"""Required factor by which the term needs fewer steps than the baseline."""

WITHIN = {"R1": 75, "R2": 150, "R3": 125, "R6": 125}
"""Maximum median steps to target; each seed may take twice as many."""

UNHARMED = {"P1": 0.003, "P2": 0.003, "P4": 0.003, "P6": 0.003}
"""How much worse the term may end: a share of accuracy, nats for P4, a share of the loss for P6."""

UNHARMED_LABEL_FREE = 0.005
"""The same of the term without a label, in the cells below."""

UNSLOWED = ("H1", "H2", "H3", "H4", "H5", "H6", "H7", "P1", "P2", "P4")
"""Cells that the term without a label must not harm."""

IN_SECONDS = (*NATURAL, "R1", "R2", "R3", "R4", "R5", "R6", "H2", "H4", "H6", "P3")
AGAINST_HEADS = ("R1", "R2", "R3", "H1", "H2", "H4", "H6", "N1", "N2", "N3", "N4", "N5")
DEAD = ("N1", "R1", "R3")
"""Networks that no control may start."""

BESIDE = ("layersync", "dispersive", "sigreg", "lbe")
"""Published terms, and the cells in which they are compared."""


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

    for cell, late in TWICE.items():
        require(cell, "on every seed, within 1.25 times the steps of the expert's remedy", _as_fast_as_expert)
        require(cell, "ends at most 1 point (5% of the loss) below the expert's remedy", _as_good_as_expert)
        require(cell, f"`none` takes at least {late:g} times the steps of `mi`, or never gets there", _late, late)
    for cell in NATURAL:
        require(cell, "`mi-label-free` gets there, in at most twice the steps of `mi`", _starts, "mi-label-free")
    for arm in ("mi-kde", "mi-binning"):
        for cell in ("N1", "N2", "N5"):
            require(cell, f"`{arm}` gets there, in at most twice the steps of `mi`", _starts, arm)
    for steps in (400, 1200):
        require("P3", f"ends at least 2 points above `none` after {steps:,} steps", _above, "mi", 0.02, steps)
        require("P3", f"saves at least 20% of {steps:,} steps", _saves, 0.2, steps)
    require("P3", "`mi-label-free` ends at least 3 points above `none`", _above, "mi-label-free", 0.03, 400)
    for cell, loss in UNHARMED.items():
        require(cell, f"ends less than {_worse(cell, loss)} below `none`", _no_worse, "mi", loss)
    require("P5", "ends at least 0.4 points above `none`", _above, "mi", 0.004)
    for cell, steps in WITHIN.items():
        require(cell, f"{steps} steps to target in the median, each seed within {2 * steps}", _within, steps)
    require("R4", "at least as good as `he` at step 600", _as_good_as, "he", 600)
    for cell, speed in SPEEDS.items():
        require(cell, f"at least {speed:g} times fewer steps than `none`", _speed, "vs_none", speed)
    for cell in ("H3", "H5"):
        require(cell, "not slower than 0.95 times `none`", _unharmed, "mi")
    for cell in UNSLOWED:
        require(cell, "`mi-label-free` not slower than 0.95 times `none`", _unharmed, "mi-label-free")
        below = f"`mi-label-free` ends less than {_worse(cell, UNHARMED_LABEL_FREE)} below `none`"
        require(cell, below, _no_worse, "mi-label-free", UNHARMED_LABEL_FREE)
    cells = {cell.name: cell for cell in CONVERGENCE.cells if not cell.budget_of}
    for cell in IN_SECONDS:
        require(cell, "faster than `none` in seconds", _seconds, 1.0)
    for cell in cells:
        if cell not in IN_SECONDS:
            require(cell, "at most 5% slower in seconds", _seconds, 0.95)
    for arm in CONTROLS:
        for cell, asked in cells.items():
            if arm in asked.arms:
                require(cell, f"`{arm}` is not faster than `none`", _control, arm)
        for cell in DEAD:
            require(cell, f"`{arm}` never starts", _never, arm)
    for cell in AGAINST_HEADS:
        require(cell, "not slower than `deep-supervision`", _not_slower)
    require(", ".join(AGAINST_HEADS), "faster than `deep-supervision` on at least 5", _count, 5)
    for cell in ("N1", "N3", "P3", "R1"):
        require(cell, "published terms beside it: " + ", ".join(f"`{arm}`" for arm in BESIDE), _beside)
    return found


def _expert(study: Study, cell: str) -> str:
    name = best(study.cell(cell), EXPERT.get(cell, ()))
    if name is None:
        raise NotRunError("no expert's remedy has runs")
    return name


def _as_fast_as_expert(study: Study, cell: str) -> tuple[str, bool]:
    name, arm = _expert(study, cell), study.arm(cell, "mi")
    versus = study.versus(cell, "mi", name)
    text, good = _ratio(versus, "steps_ratio", "ci95", 1 / 1.25)
    counts = f"{arm['n_reached']} of {arm['n_seeds']} seeds"
    measured = f"`{name}` takes {text} times as many" if versus["steps_ratio"] else text
    return f"{measured}; {counts}", good and arm["n_reached"] == arm["n_seeds"]


def _as_good_as_expert(study: Study, cell: str) -> tuple[str, bool]:
    name = _expert(study, cell)
    metric = Metric.of(study.cell(cell))
    mean, low, high = _difference(study.versus(cell, "mi", name), metric)
    end = study.arm(cell, name)[final_key(metric)]["mean"]
    return f"`{name}`: {_better(mean, low, high, metric)}", low >= -(0.01 if metric.is_share else 0.05 * end)


def _late(study: Study, cell: str, factor: float) -> tuple[str, bool]:
    if study.cell(cell)["target"] is None:
        mean, low, high, metric = _gain(study, cell)
        return f"no goal; ends {_better(mean, low, high, metric)}", low > 0
    ours, theirs = (study.arm(cell, arm)["steps_to_target"]["median"] for arm in ("mi", "none"))
    if theirs is None:
        return f"{_steps(math.inf if ours is None else ours)} and never, in the median", ours is not None
    return _speed(study, cell, "vs_none", factor)


def _starts(study: Study, cell: str, arm: str) -> tuple[str, bool]:
    found = study.arm(cell, arm)
    counts = f"{found['n_reached']} of {found['n_seeds']} seeds"
    if found["steps_to_target"]["median"] is None:
        return counts, False
    versus = study.versus(cell, "mi", arm)
    text, _ = _ratio(versus, "steps_ratio", "ci95", 0)
    return f"{counts}, {text} times the steps", versus["ci95"][1] <= 2


def _beside(study: Study, cell: str) -> tuple[str, bool]:
    found = study.cell(cell)
    ran = [arm for arm in BESIDE if arm in found["arms"]]
    if len(ran) < len(BESIDE):
        raise NotRunError("have no runs: " + ", ".join(f"`{arm}`" for arm in BESIDE if arm not in ran))
    return "; ".join(f"`{arm}` {reached(found, arm)}" for arm in ("mi", *ran)), True


def _worse(cell: str, loss: float) -> str:
    return {"P4": f"{loss:g} nats", "P6": f"{loss:.1%} of the loss"}.get(cell, f"{100 * loss:g} points")


def _within(study: Study, cell: str, steps: float) -> tuple[str, bool]:
    values = study.arm(cell, "mi")["steps_to_target"]["values"]
    median, low, high = median_interval(values)
    worst = max(math.inf if value is None else value for value in values)
    text = f"{_steps(median)} [{_steps(low)}, {_steps(high)}], slowest {_steps(worst)}"
    return text, high <= steps and worst <= 2 * steps


def _steps(value: float) -> str:
    return "never" if math.isinf(value) else f"{value:g}"


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


def _unharmed(study: Study, cell: str, arm: str) -> tuple[str, bool]:
    if study.cell(cell)["target"] is not None:
        return _ratio(study.versus(cell, arm), "steps_ratio", "ci95", 0.95)
    saved = _saving(study, cell, arm)
    mean, low, high = (1 / (1 - share) for share in (saved["mean"], *saved["ci95"]))
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]", low >= 0.95


def _of_budget(study: Study, cell: str, steps: int) -> None:
    if (ran := study.cell(cell)["budget_steps"]) != steps:
        raise NotRunError(f"ran for {ran:,} steps")


def _saves(study: Study, cell: str, bar: float, steps: int) -> tuple[str, bool]:
    _of_budget(study, cell, steps)
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
    return *_signed(found, metric), metric


def _difference(versus: Mapping[str, Any], metric: Metric) -> tuple[float, float, float]:
    """The difference of the final metric in a comparison, positive if better, and its interval."""
    found = versus[difference_key(metric)]
    if found["ci95"] is None:
        raise NotRunError("no interval")
    return _signed(found, metric)


def _signed(found: Mapping[str, Any], metric: Metric) -> tuple[float, float, float]:
    low, high = sorted(metric.gain(edge) for edge in found["ci95"])
    return metric.gain(found["mean"]), low, high


def _no_worse(study: Study, cell: str, arm: str, loss: float) -> tuple[str, bool]:
    mean, low, high, metric = _gain(study, cell, arm)
    scale = study.arm(cell, "none")[final_key(metric)]["mean"] if cell == "P6" else 1.0
    return _better(mean, low, high, metric), low >= -loss * scale


def _above(study: Study, cell: str, arm: str, least: float, steps: int | None = None) -> tuple[str, bool]:
    if steps is not None:
        _of_budget(study, cell, steps)
    mean, low, high, metric = _gain(study, cell, arm)
    return _better(mean, low, high, metric), low >= least


def _better(mean: float, low: float, high: float, metric: Metric) -> str:
    if metric.is_share:
        return _points(mean, (low, high))
    return interval_text(mean, (low, high), "+.3g", unit=" better")


def _points(mean: float, interval: tuple[float, float]) -> str:
    return interval_text(mean, interval, "+.1f", scale=100, unit=" points")


def _seconds(study: Study, cell: str, bar: float) -> tuple[str, bool]:
    found = _saving(study, cell) if study.cell(cell)["target"] is None else study.versus(cell, "mi")
    text, _ = _ratio(found, "seconds_ratio", "seconds_ci95", bar)
    low = (found["seconds_ci95"] or [0.0])[0]
    return text, low > bar if bar == 1 else low >= bar


def _control(study: Study, cell: str, arm: str) -> tuple[str, bool]:
    if study.cell(cell)["target"] is None:
        try:
            saved = _saving(study, cell, arm)
        except UndefinedError:
            mean, low, high, metric = _gain(study, cell, arm)
            return f"ends {_better(mean, low, high, metric)}", low <= 0
        return f"saves {_percent(saved)}", saved["ci95"][0] <= 0
    versus = study.versus(cell, arm)
    if versus["steps_ratio"] is None:
        return "neither reached the target", True
    text, _ = _ratio(versus, "steps_ratio", "ci95", 1)
    return text, versus["ci95"][0] <= 1


def _never(study: Study, cell: str, name: str) -> tuple[str, bool]:
    arm = study.arm(cell, name)
    return f"{arm['n_reached']} of {arm['n_seeds']} seeds reach the target", arm["n_reached"] == 0


def _not_slower(study: Study, cell: str) -> tuple[str, bool]:
    versus = study.versus(cell, "mi", "deep-supervision")
    text, _ = _ratio(versus, "steps_ratio", "ci95", 1)
    return text, versus["steps_ratio"] is not None and versus["ci95"][1] >= 1


def _count(study: Study, _: str, least: int) -> tuple[str, bool]:
    faster, missing = [], 0
    for cell in AGAINST_HEADS:
        try:
            versus = study.versus(cell, "mi", "deep-supervision")
            _ratio(versus, "steps_ratio", "ci95", math.inf)  # or it has no interval
            faster += [cell] if versus["ci95"] and versus["ci95"][0] > 1 else []
        except NotRunError:
            missing += 1
    if missing and len(faster) < least:
        raise NotRunError(f"{missing} of these cells have no runs")
    return f"{len(faster)}: {', '.join(faster) or 'none'}", len(faster) >= least
