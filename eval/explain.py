"""What the term changes inside networks, and whether missing information predicts how long training takes.

python -m eval.explain --json FILE --figure FILE --scatter FILE
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from scipy import stats
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import models
from eval.cells import CONVERGENCE
from eval.step import training
from mireg import diagnostics, estimators
from mireg.ablation.arms import Term
from mireg.ablation.arms import arm as named_arm
from mireg.ablation.arms.loss_term import NoTerm
from mireg.ablation.data import Dataset, Split, load
from mireg.ablation.random_state import seed_everything
from mireg.ablation.report.figures import COLOURS, STYLE
from mireg.ablation.storage.files import write_json
from mireg.ablation.training.denormals import flushed_denormals
from mireg.ablation.training.score import score
from mireg.layers import Taps

EXPLAINED = {"R1": 3e-3, "R3": 1e-3, "H1": 1e-3, "H7": 1e-3}
"""Cells of the convergence study, two to rescue and two that train well, with their learning rates."""

STEPS = (0, 25, 50, 100, 300)
"""Steps at which a network is measured."""

ARMS = ("none", "mi")
PROBE = 256
"""Number of validation samples on which a network is measured."""

PANELS = {
    "nats": "information about the\ntarget, nats",
    "gradient_norm": "gradient norm of the layer",
    "participation_ratio": "participation ratio of the layer",
}

STACKS: tuple[dict[str, Any], ...] = (
    *({"depth": depth} for depth in (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20)),
    *({"depth": depth, "init": "he"} for depth in (3, 10, 20, 30, 60)),
    *({"depth": depth, "activation": "sigmoid", "init": "orthogonal"} for depth in (2, 3, 4, 5, 6, 8)),
    *({"depth": depth, "activation": "tanh"} for depth in (3, 5, 8, 12, 20)),
    *({"depth": depth, "batchnorm": True} for depth in (3, 10, 30)),
)
"""MLPs of width 128 for the correlation of steps to target with the last layer's information about the target."""

TARGET, BUDGET, EVERY, RATE = 0.75, 2000, 25, 1e-3


def measure_layers(network: nn.Module, probe: Split) -> dict[str, list[float]]:
    """Measure the :data:`PANELS` of a network, each by layer."""
    images, labels = probe.batch(slice(0, PROBE))
    layers = layers_of(network, images)
    by_layer = diagnostics.layer_parameters(network)
    loss = cross_entropy(network(images), labels)
    return {
        "nats": estimators.get("usable").for_training().about(layers, labels).tolist(),
        "gradient_norm": diagnostics.gradient_norms(loss, dict(network.named_parameters()), by_layer),
        "participation_ratio": [diagnostics.participation_ratio(layer) for layer in layers],
    }


def layers_of(network: nn.Module, images: Tensor) -> list[Tensor]:
    """The input and the outputs of the hidden layers, as matrices."""
    taps = Taps(network)
    with torch.no_grad():
        layers = taps.run(images)[1]
    taps.remove()
    return [layer.flatten(1) for layer in layers.values()]


def inside(name: str, arm: str, data: Dataset, seed: int) -> dict[str, Any]:
    """Train a network of the convergence study, and measure it at each of :data:`STEPS`."""
    cell = next(cell for cell in CONVERGENCE.cells if cell.name == name)
    seed_everything(seed)
    network = models.build(cell.model, cell.model_options, data.input_shape, data.outputs)
    term = named_arm(arm).term(network, Term(), data.train.batch(slice(0, 2))[0])
    found = []
    for done, _ in training(term, data, EXPLAINED[name], seed):
        if done in STEPS:
            found.append(
                {
                    "step": done,
                    "accuracy": score(network, data.validation, data.task, "accuracy"),
                    **measure_layers(network, data.validation),
                }
            )
        if done == STEPS[-1]:
            break
    return {"at": found}


def stack(options: dict[str, Any], data: Dataset, seed: int) -> dict[str, Any]:
    """Measure the last layer's information about the target at the start, and the steps of plain training to target."""
    seed_everything(seed)
    network = models.build("mlp", {"width": 128, **options}, data.input_shape, data.outputs)
    images, labels = data.validation.batch(slice(0, PROBE))
    layers = layers_of(network, images)
    smallest = estimators.get("usable").for_training().about(layers, labels)[-1].clamp_min(0).item()
    for done, _ in training(NoTerm(network, Term(), images), data, RATE, seed):
        reached = done % EVERY == 0 and score(network, data.validation, data.task, "accuracy") >= TARGET
        if reached or done == BUDGET:
            return {**options, "seed": seed, "last_nats": smallest, "steps": done if reached else None}
    raise AssertionError  # training never ends by itself


def correlation(stacks: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Spearman's rank correlation of the last layer's information and the steps to target; a miss ranks last.

    Depth, which correlates with both, is compared with the same steps.
    """
    steps = [BUDGET + 1 if found["steps"] is None else found["steps"] for found in stacks]
    test = stats.spearmanr([found["last_nats"] for found in stacks], steps)
    of_depth = stats.spearmanr([found["depth"] for found in stacks], steps)
    return {
        "spearman": float(test.statistic),
        "p_value": float(test.pvalue),
        "spearman_of_depth": float(of_depth.statistic),
        "networks": len(stacks),
    }


def draw(cells: dict[str, Any]) -> Figure:
    """Draw a column per cell and a row per panel: the start, which both arms share, and each arm early and at the end.

    A colour per arm; early is dashed.
    """
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(3.2 * len(cells), 8), layout="constrained")
        grid = figure.subplots(len(PANELS), len(cells), squeeze=False)
        for column, (name, arms) in enumerate(cells.items()):
            for row, (panel, title) in enumerate(PANELS.items()):
                axes = grid[row, column]
                shown = [("before training", arms[ARMS[0]]["at"][0], "#808080", ":")]
                for colour, arm in zip(COLOURS[1:], ARMS, strict=False):
                    early, last = arms[arm]["at"][len(STEPS) // 2], arms[arm]["at"][-1]
                    shown += [(f"{arm}, step {seen['step']}", seen, colour, dash)
                              for seen, dash in ((early, "--"), (last, "-"))]  # fmt: skip
                for label, seen, colour, dash in shown:
                    values = seen[panel]
                    axes.plot(range(1, len(values) + 1), values, color=colour, linestyle=dash, label=label)
                if panel == "gradient_norm":
                    axes.set_yscale("log")
                if row == 0:
                    axes.set_title(name)
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
                if row == len(PANELS) - 1:
                    axes.set_xlabel("layer, from the input")
                if column == 0:
                    axes.set_ylabel(title)
        figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=len(STEPS))
    return figure


def draw_stacks(stacks: Sequence[dict[str, Any]]) -> Figure:
    """Draw steps to target over the last layer's information; misses are at the top."""
    kinds = {kind_of(found): None for found in stacks}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(8, 4), layout="constrained")
        axes = figure.subplots()
        for colour, kind in zip(COLOURS[1:], kinds, strict=False):
            of_kind = [found for found in stacks if kind_of(found) == kind]
            axes.scatter(
                [max(found["last_nats"], 1e-5) for found in of_kind],
                [found["steps"] or 1.3 * BUDGET for found in of_kind],
                color=colour,
                label=kind,
                s=22,
            )
        axes.axhline(BUDGET, color="#808080", linewidth=0.8)
        axes.set(
            xscale="log",
            yscale="log",
            xlabel="usable information about the target in the last layer at the start, nats",
        )
        axes.set_ylabel(f"steps to {TARGET:.0%}, above the line: never")
        figure.legend(loc="outside right upper")
    return figure


def kind_of(found: dict[str, Any]) -> str:
    """Activation and initialisation of a stack."""
    norm = " with BatchNorm" if found.get("batchnorm") else ""
    return f"{found.get('activation', 'relu')}, {found.get('init', 'default')}{norm}"


def table(found: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    lines = [
        "| cell, arm | step | accuracy | weakest layer, nats | which | gradient norm, first / last hidden layer "
        "| smallest participation ratio |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, arms in found["cells"].items():
        for arm, run in arms.items():
            for seen in run["at"]:
                nats, norms = seen["nats"], seen["gradient_norm"]
                weakest = min(range(len(nats)), key=nats.__getitem__)
                lines.append(
                    f"| {name}, {arm} | {seen['step']} | {seen['accuracy']:.0%} | {max(nats[weakest], 0):.2f} "
                    f"| {weakest + 1} of {len(nats)} | {norms[0]:.0e} / {norms[-2]:.0e} "
                    f"| {min(seen['participation_ratio'][1:]):.1f} |"
                )
    c = found["correlation"]
    lines += [
        "",
        f"Spearman {c['spearman']:.2f} (p = {c['p_value']:.0e}), of depth {c['spearman_of_depth']:.2f}, "
        f"over {c['networks']} networks",
    ]
    return "\n".join(lines)


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.explain", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--figure", type=Path, help="write the figure of the networks' layers here")
    parser.add_argument("--scatter", type=Path, help="write the scatter plot of steps over information here")
    parser.add_argument("--cells", nargs="+", default=list(EXPLAINED), choices=list(EXPLAINED))
    parser.add_argument("--dataset", default="fashion-mnist")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--stacks", type=int, default=len(STACKS), help="use only this many networks for the correlation"
    )
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    a = parser.parse_args()
    data = load(a.dataset, a.data_dir)
    with flushed_denormals():
        cells = {name: {arm: inside(name, arm, data, a.seed) for arm in ARMS} for name in a.cells}
        stacks = [stack(options, data, a.seed) for options in STACKS[: a.stacks]]
    found = {"dataset": a.dataset, "cells": cells, "stacks": stacks, "correlation": correlation(stacks)}
    if a.json:
        write_json(a.json, found)
    for path, figure in ((a.figure, draw(cells)), (a.scatter, draw_stacks(stacks))):
        if path:
            path.parent.mkdir(parents=True, exist_ok=True)
            figure.savefig(path, dpi=110)
    print(table(found))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
