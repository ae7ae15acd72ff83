"""Diagnostics of deep networks, with and without the MI term.

python -m eval.diagnostics [--json FILE] [--figure FILE]
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn

import models
from eval.step import diagnose
from eval.step import training as training_steps
from mireg import diagnostics
from mireg.ablation.arms import Term
from mireg.ablation.arms import arm as named_arm
from mireg.ablation.data import Dataset, load
from mireg.ablation.random_state import seed_everything
from mireg.ablation.report.figures import COLOURS, STYLE
from mireg.ablation.storage.files import write_json
from mireg.ablation.training.score import score

NETWORKS: dict[str, dict[str, Any]] = {
    "plain": {"init": "he"},
    "residual": {"residual": True},
    "batchnorm": {"init": "he", "batchnorm": True},
    "residual-batchnorm": {"init": "he", "residual": True, "batchnorm": True},
    "looks-linear": {"init": "looks-linear"},
    "plain-default": {},
}
"""ReLU networks of equal depth and width, with PyTorch's default initialisation unless ``init`` is given."""

TRAINED = ("plain", "plain-default", "residual", "batchnorm")
ARMS = ("none", "mi")
POINTS = 256
LINES = 3
BATCH = 64
PROBE = 128
"""Validation samples whose features are followed."""

PANELS = {
    "validation_accuracy": "validation accuracy",
    "covariate_shift_cosine": "covariate shift: cosine of the gradient\nbefore and after the step of the layers below",
    "alignment_drift": "feature drift in one step, 1 − CKA",
    "effective_rank": "effective rank of the last layers' features",
}
"""Panels of the training part, medians over the deeper half of the sampled layers and over seeds."""


def shattering(networks: Sequence[str], dataset: Dataset, depth: int, width: int, seeds: int) -> dict[str, Any]:
    """Measure the autocorrelation of the input gradient along lines between samples, at initialisation.

    Returns:
        For each network: ``autocorrelation`` at lags 0 to 255 of a line of 256 points and
        ``half_lag``, the first lag below one half, both for the mean over lines and seeds;
        ``mean_cosine`` of different samples' gradients and ``gradient_norm``, medians over seeds.
    """
    samples = dataset.train.batch(slice(0, 512))[0]
    found = {}
    for name in networks:
        curves, cosines, norms = [], [], []
        for seed in range(seeds):
            torch.manual_seed(seed)
            network = _build(name, dataset, depth, width)
            _settle_normalisation(network, samples)
            curves += [_along_line(network, samples[2 * k], samples[2 * k + 1]) for k in range(LINES)]
            gradients = diagnostics.input_gradients(partial(_first_output, network), samples[:128])
            cosines.append(diagnostics.mean_cosine(gradients))
            norms.append(gradients.norm(dim=1).median().item())
        mean = torch.stack(curves).mean(0)
        found[name] = {
            "autocorrelation": mean.tolist(),
            "half_lag": int((mean < 0.5).nonzero()[0]),
            "mean_cosine": float(np.median(cosines)),
            "gradient_norm": float(np.median(norms)),
        }
    return found


def training(
    networks: Sequence[str], dataset: Dataset, depth: int, width: int, seeds: int, steps: int, lr: float
) -> dict[str, Any]:
    """Measure diagnostics during training, with and without the MI term, on paired seeds.

    Returns:
        For each network and arm: ``step``, the :data:`PANELS` by step, ``gradient_norm_ratio`` (last over
        first sampled layer) by step, and ``half_lag`` after the last step, medians over seeds.
    """
    found: dict[str, Any] = {}
    samples = dataset.train.batch(slice(0, 2 * LINES))[0]
    for name in networks:
        for arm in ARMS:
            curves, lags = [], []
            for seed in range(seeds):
                seed_everything(seed)
                network = _build(name, dataset, depth, width)
                curves.append(_train(network, arm, dataset, seed, steps, lr))
                mean = torch.stack([_along_line(network.eval(), *samples[2 * k : 2 * k + 2]) for k in range(LINES)])
                below = (mean.mean(0) < 0.5).nonzero()
                lags.append(int(below[0]) if len(below) else POINTS)  # a constant gradient never falls
            found.setdefault(name, {})[arm] = {
                key: [float(np.nanmedian([curve[i][key] for curve in curves])) for i in range(len(curves[0]))]
                for key in curves[0][0]
            } | {"half_lag": float(np.median(lags))}
    return found


def draw(found: dict[str, Any]) -> Figure:
    """Draw shattering in the first panel, then the training panels; a colour per network, dashed with the MI term."""
    colour = {name: COLOURS[index] for index, name in enumerate(found["shattering"])}
    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(12, 7), layout="constrained")
        grid = figure.subplots(2, 3).flatten()
        shatter, norm = grid[0], grid[5]
        for name, values in found["shattering"].items():
            shatter.plot(values["autocorrelation"][:65], color=colour[name], label=name)
        shatter.set(title="autocorrelation of the input gradient\nat initialisation", xlabel="lag, of 256 on the line")
        drawn = {**PANELS, "gradient_norm_ratio": "gradient norm, last sampled layer over first"}
        for axes, (key, title) in zip(grid[1:], drawn.items(), strict=True):
            for name, arms in found["training"].items():
                for arm, dash in zip(ARMS, ("-", (0, (4, 2))), strict=True):
                    axes.plot(arms[arm]["step"], arms[arm][key], color=colour[name], linestyle=dash)
            axes.set(title=title, xlabel="training step")
        norm.set_yscale("log")
        grid[3].set_yscale("log")
        handles = [*shatter.get_lines()]
        handles += shatter.plot([], [], color="#808080") + shatter.plot([], [], color="#808080", linestyle=(0, (4, 2)))
        figure.legend(
            handles, [*found["shattering"], *("without the term", "with it")], loc="outside lower center", ncols=4
        )
    return figure


def table(found: dict[str, Any]) -> str:
    """Format the numbers as Markdown."""
    lines = [
        "| network, at the start | lag below 1/2 | at lag 1 | at lag 16 | mean cosine | gradient norm |",
        "|---|--:|--:|--:|--:|--:|",
    ]
    for name, v in found["shattering"].items():
        acf = v["autocorrelation"]
        lines.append(
            f"| {name} | {v['half_lag']} | {acf[1]:.2f} | {acf[16]:.2f} "
            f"| {v['mean_cosine']:.2f} | {v['gradient_norm']:.1e} |"
        )
    lines += [
        "",
        "| network, arm | accuracy | shift, cosine | drift, 1 − CKA | effective rank | norm ratio | lag below 1/2 |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name, arms in found["training"].items():
        for arm, v in arms.items():
            means = [np.mean(v[key][1:]) for key in list(PANELS)[1:]]
            lines.append(
                f"| {name}, {arm} | {v['validation_accuracy'][-1]:.0%} | {means[0]:.3f} | {means[1]:.1e} "
                f"| {means[2]:.1f} | {v['gradient_norm_ratio'][-1]:.1e} | {v['half_lag']:.0f} |"
            )
    return "\n".join(lines)


def main() -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.diagnostics", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the numbers here")
    parser.add_argument("--figure", type=Path, help="write the figure here; the suffix sets its format")
    parser.add_argument("--depth", type=int, default=50, help="hidden layers of the networks at the start")
    parser.add_argument("--trained-depth", type=int, default=10, help="hidden layers of the networks in training")
    parser.add_argument("--width", type=int, default=64, help="units of each layer")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=300, help="training steps")
    parser.add_argument("--lr", type=float, default=1e-2, help="learning rate (Adam)")
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    a = parser.parse_args()
    dataset = load("digits", a.data_dir)
    found = {
        "settings": {key: value for key, value in vars(a).items() if isinstance(value, int | float)},
        "shattering": shattering(list(NETWORKS), dataset, a.depth, a.width, a.seeds),
        "training": training(TRAINED, dataset, a.trained_depth, a.width, a.seeds, a.steps, a.lr),
    }
    if a.json:
        write_json(a.json, found)
    if a.figure:
        a.figure.parent.mkdir(parents=True, exist_ok=True)
        draw(found).savefig(a.figure, dpi=120)
    print(table(found))
    return 0


def _first_output(network: nn.Module, x: Tensor) -> Tensor:
    outputs: Tensor = network(x)
    return outputs[:, 0]


def _build(name: str, dataset: Dataset, depth: int, width: int) -> nn.Module:
    options = {"depth": depth, "width": width, **NETWORKS[name]}
    return models.build("mlp", options, dataset.input_shape, dataset.outputs)


def _train(network: nn.Module, arm: str, dataset: Dataset, seed: int, steps: int, lr: float) -> list[dict[str, float]]:
    """Train a network with an arm's term, and return the panels' values at eleven steps."""
    term = named_arm(arm).term(network, Term(), dataset.train.batch(slice(0, BATCH))[0])
    curve = []
    for done, optimizer in training_steps(term, dataset, lr, seed, BATCH):
        if done % max(1, steps // 10) == 0 or done == steps:
            accuracy = score(network, dataset.validation, dataset.task, "accuracy")
            curve.append(_panels(done, accuracy, diagnose(term, optimizer, dataset, BATCH, PROBE)))
        if done == steps:
            break
    return curve


@torch.no_grad()
def _settle_normalisation(network: nn.Module, samples: Tensor) -> None:
    """Set the statistics of BatchNorm from the samples, so that the network becomes a fixed function."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d):
            module.momentum = None  # plain average over batches, of which there is one
    network.train()
    network(samples)
    network.eval()


def _along_line(network: nn.Module, start: Tensor, end: Tensor) -> Tensor:
    share = torch.linspace(0, 1, POINTS).reshape(-1, *[1] * start.ndim)
    gradients = diagnostics.input_gradients(lambda x: network(x)[:, 0], start + share * (end - start))
    return diagnostics.autocorrelation(gradients)


def _panels(step: int, accuracy: float, found: dict[str, float]) -> dict[str, float]:
    """The panels' values at one step; NaN if a collapsed layer has none."""
    by_layer = {
        key: [value for name, value in sorted(found.items()) if name.startswith(f"{key}/")]
        for key in (*list(PANELS)[1:], "gradient_norm")
    }
    norms = by_layer.pop("gradient_norm")
    return {
        "step": step,
        "validation_accuracy": accuracy,
        **{key: float(np.median(of[len(of) // 2 :])) if of else float("nan") for key, of in by_layer.items()},
        "gradient_norm_ratio": norms[-1] / norms[0] if norms[0] > 0 else float("nan"),
    }


if __name__ == "__main__":
    raise SystemExit(main())
