"""The convergence study in one small table: networks as people build them first, then some of the others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.cells import CONTROLS, EXPERT, REMEDIES
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.report.summary import final_key
from mireg.ablation.report.tables import markdown, of_rows
from mireg.ablation.study.metric import Metric

NETWORKS = {
    "N1": "LeNet-5 with sigmoids",
    "N1a": "the same, SGD without momentum",
    "N2": "VGG of 13 layers, no BatchNorm",
    "N3": "transformer encoder, 16 post-norm layers",
    "N4": "10 layers of spiking neurons",
    "N5": "deep autoencoder, tanh",
    "N5s": "deep autoencoder, sigmoids",
    "N6": "GCN of 8 layers, Cora",
    "N6b": "GCN of 16 layers, Cora",
    "P7": "LSTM of 20 layers",
    "R1": "10 sigmoid layers",
    "R2": "20 sigmoid layers",
    "R3": "30 ReLU layers, default initialisation",
    "H1": "30 ReLU layers, He initialisation",
    "H7": "3 ReLU layers",
    "P1": "VGG with BatchNorm, CIFAR-10",
    "P3": "vision transformer, CIFAR-10",
    "P4": "character GPT, Shakespeare",
}
"""Cells of the table, in order."""

SHORT = ("N1", "N2", "N3", "N4", "N5", "N6", "P7", "R3", "P1", "P3")
"""Those of the shorter table."""

COLUMNS = ("network, and its goal", "plain", "`mi_loss(y)`", "`mi_loss()`", "remedy", "deep supervision", "control")

ABOUT = (
    "Steps to the goal, the median over seeds, and the mean test metric after the last step; without a goal, the "
    "latter alone. The goal is on validation data: an accuracy or, of autoencoders, a loss. In brackets how many seeds "
    "get there, where not all or none. `mi_loss()` needs no label. The remedy is the best that was run of those that "
    "an expert would name for the network. The control is `mi_loss(y)` with shuffled rows."
)


def block(summary: Mapping[str, Any], names: Sequence[str] = tuple(NETWORKS)) -> str:
    """The table of these cells, as far as they have been run, and what controls and estimators do, as Markdown."""
    found = {cell["cell"]: cell for cell in summary["cells"]}
    cells = [found[name] for name in names if name in found]
    about = [ABOUT + _seeds(cells), _controls(cells), "" if names is SHORT else _estimators(cells)]
    return "\n".join([*markdown(of_rows(COLUMNS, [_row(cell) for cell in cells])), "", *filter(None, about), ""])


def _row(cell: dict[str, Any]) -> list[str]:
    goal = "" if cell["target"] is None else f": {Metric.of(cell).show(cell['target'])}"
    expert = best(cell, EXPERT.get(cell["cell"], REMEDIES))
    arms = (BASELINE, TERM, "mi-label-free", expert, "deep-supervision", CONTROLS[0])
    texts = [reached(cell, arm) for arm in arms]
    if expert:
        texts[3] = f"`{expert}`: {texts[3]}"
    return [f"{NETWORKS[cell['cell']]} ({cell['cell']}){goal}", *texts]


def best(cell: Mapping[str, Any], names: tuple[str, ...]) -> str | None:
    """The arm, of those that ran, with the fewest median steps to the goal, or else the best end; None if none ran."""
    metric, ran = Metric.of(cell), [name for name in names if name in cell["arms"]]

    def order(name: str) -> tuple[float, float]:
        arm = cell["arms"][name]
        steps, end = arm["steps_to_target"]["median"], arm[final_key(metric)]["mean"]
        return float("inf") if steps is None else steps, -(metric.worst if end is None else metric.gain(end))

    return min(ran, key=order, default=None)


def reached(cell: Mapping[str, Any], name: str | None) -> str:
    """Median steps of an arm to the goal, and how it ends; how many seeds got there, or ran, where not all did."""
    arm = cell["arms"].get(name)
    if arm is None:
        return "not run"
    metric, seeds = Metric.of(cell), arm["n_seeds"]
    end = arm[final_key(metric)]["mean"]
    texts = ["broke" if end is None else metric.show(end, 1 if cell["target"] is None else 0)]
    if cell["target"] is not None:
        median = arm["steps_to_target"]["median"]
        few = f" ({arm['n_reached']} of {seeds})" if 0 < arm["n_reached"] < seeds else ""
        texts.insert(0, ("never" if median is None else f"{median:,.0f}") + few)
    if seeds < cell["arms"][BASELINE]["n_seeds"]:
        texts.append(f"{seeds} seeds")
    return ", ".join(texts)


def _seeds(cells: list[dict[str, Any]]) -> str:
    counts = sorted({cell["arms"][BASELINE]["n_seeds"] for cell in cells})
    return f" Seeds: {', '.join(map(str, counts))}." if len(counts) < 3 else f" {counts[0]} to {counts[-1]} seeds."


def _controls(cells: list[dict[str, Any]]) -> str:
    """How many runs with shuffled rows start a network that plain training does not."""
    dead = [
        cell
        for cell in cells
        if cell["target"] is not None and not cell["arms"].get(BASELINE, {"n_reached": 1})["n_reached"]
    ]
    arms = [(name, arm) for cell in dead for name, arm in cell["arms"].items() if name in CONTROLS]
    if not arms:
        return ""
    names = ", ".join(f"`{name}`" for name in CONTROLS if name in dict(arms))
    started, runs = sum(arm["n_reached"] for _, arm in arms), sum(arm["n_seeds"] for _, arm in arms)
    where = ", ".join(cell["cell"] for cell in dead)
    return (
        f"Where plain training reaches the goal on no seed ({where}), the controls reach it in {started} of {runs} "
        f"runs: {names}."
    )


def _estimators(cells: list[dict[str, Any]]) -> str:
    """What the other estimators do as rewards, without a label."""
    texts = [
        f"{cell['cell']} `{name}` {reached(cell, name)}"
        for cell in cells
        for name in ("mi-kde", "mi-binning")
        if name in cell["arms"]
    ]
    return f"Label-free by the kernel and the binning estimator: {'; '.join(texts)}." if texts else ""
