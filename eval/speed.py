"""Speed of ``successive`` compared with the same estimators pair by pair, and with other libraries.

python -m eval.speed --json docs/results/speed/speed.json

Forward and backward over a chain of layers. Peers are optional: those not installed are listed as missing.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import sys
import time
from collections.abc import Callable, Sequence
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from eval.environment import environment
from mireg import estimators

Term = Callable[[list[Tensor]], Tensor]


def chain(n: int, layers: int, width: int) -> list[Tensor]:
    """Activations of a deep tanh network on n random inputs, each a leaf that requires a gradient."""
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(n, width, generator=generator)
    found = []
    for _ in range(layers):
        found.append(rows.clone().requires_grad_())
        rows = torch.tanh(rows @ torch.randn(width, width, generator=generator) * 1.5 / width**0.5)
    return found


def pair_by_pair(name: str) -> Term:
    """An estimator called on each pair of layers, with a separate critic for each."""
    own: dict[int, estimators.Estimator] = {}

    def term(layers: list[Tensor]) -> Tensor:
        pairs = enumerate(itertools.pairwise(layers))
        return torch.stack([own.setdefault(i, estimators.get(name))(x, y) for i, (x, y) in pairs])

    return term


def kornia_term(layers: list[Tensor]) -> Tensor:
    """kornia's mutual-information loss, with each layer's activations as one image."""
    loss = importlib.import_module("kornia.losses").mutual_information_loss
    return torch.stack([-loss(x.flatten()[None], y.flatten()[None])[0] for x, y in itertools.pairwise(layers)])


class TorchMist:
    """torch-mist's InfoNCE, with a separable critic of 64 hidden units for each pair."""

    def __init__(self) -> None:
        self.critics: list[Any] = []
        self.calls = 0

    def __call__(self, layers: list[Tensor]) -> Tensor:
        make = importlib.import_module("torch_mist.estimators").infonce
        if not self.critics:
            self.critics = [
                make(x_dim=x.shape[1], y_dim=y.shape[1], hidden_dims=[64]) for x, y in itertools.pairwise(layers)
            ]
        self.calls += 1
        scale = 1 + 1e-4 * self.calls  # the critics cache their results for equal values, including the graph
        pairs = zip(self.critics, itertools.pairwise([layer * scale for layer in layers]), strict=True)
        return torch.stack([-critic.loss(x=x, y=y) for critic, (x, y) in pairs])


def scikit_learn_term(layers: list[Tensor]) -> Tensor:
    """scikit-learn's nearest-neighbour estimate, without a gradient: a layer against one unit of the next."""
    regression = importlib.import_module("sklearn.feature_selection").mutual_info_regression
    arrays = [layer.detach().numpy() for layer in layers]
    return torch.tensor([float(regression(x, y[:, 0]).mean()) for x, y in itertools.pairwise(arrays)])


PEERS: dict[str, tuple[str, Callable[[], Term]]] = {
    "kornia": ("mutual_information_loss", lambda: kornia_term),
    "torch-mist": ("InfoNCE", TorchMist),
    "scikit-learn": ("mutual_info_regression", lambda: scikit_learn_term),
}
"""For each distribution, its closest function and a factory for a term on a chain of layers."""

NEAREST = {"kornia": "binning", "torch-mist": "infonce"}
"""The estimator most similar to each peer: a histogram of kernels, a critic."""

BASELINES = ("kde", "binning", "infonce")
"""Estimators with which peers are compared."""


def seconds(term: Term, layers: list[Tensor]) -> float:
    """Time a forward pass and, if there is a gradient, a backward pass, in seconds."""
    start = time.perf_counter()
    information = term(layers).sum()
    if information.requires_grad:
        information.backward()
    taken = time.perf_counter() - start
    for layer in layers:
        layer.grad = None
    return taken


def side_by_side(terms: dict[str, Term], layers: list[Tensor], repeats: int) -> dict[str, list[float]]:
    """Seconds of each term, timed in turns, so that other load on the machine affects all of them.

    In its turn a term runs twice, and the second run counts: as in training, its memory is already allocated.
    """
    taken: dict[str, list[float]] = {name: [] for name in terms}
    for _ in range(repeats):
        for name, term in terms.items():
            seconds(term, layers)
            taken[name].append(seconds(term, layers))
    return taken


def times(slower: Sequence[float], faster: Sequence[float]) -> float:
    """Median ratio of seconds that were timed in turns."""
    return median(a / b for a, b in zip(slower, faster, strict=True))


def compare(n: int, layers: int, width: int, repeats: int) -> list[dict[str, Any]]:
    """Rows of the table for batches of n samples."""
    activations = chain(n, layers, width)
    rows: list[dict[str, Any]] = []
    for name in estimators.names():
        if not estimators.REGISTRY[name].is_differentiable:
            continue
        terms = {"together": estimators.get(name).successive, "apart": pair_by_pair(name)}
        taken = side_by_side(terms, activations, repeats)
        row = {"n": n, "what": name, "seconds": median(taken["together"])}
        row |= {"pair_by_pair_seconds": median(taken["apart"]), "speedup": times(taken["apart"], taken["together"])}
        rows.append(row)
    for distribution, (nearest, make) in PEERS.items():
        row = {"n": n, "what": f"{distribution} {nearest}", "seconds": None}
        try:
            row["version"] = metadata.version(distribution)
            ours = {name: estimators.get(name).successive for name in BASELINES}
            taken = side_by_side({**ours, distribution: make()}, activations, repeats)
            row["seconds"] = median(taken[distribution])
            row["times_slower_than"] = {name: times(taken[distribution], taken[name]) for name in ours}
        except ImportError as error:  # PackageNotFoundError is one
            row["missing"] = f"{distribution} cannot be imported: {error}"
        rows.append(row)
    return rows


def bars(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check the requirements: 3 times the speed of pair by pair, 10 times that of the most similar peer."""
    found = []
    for row in rows:
        own = NEAREST.get(row["what"].split()[0], "")
        if "speedup" in row:
            found.append((row, f"{row['what']} against itself pair by pair", row["speedup"], 3))
        elif own and row["seconds"] is not None:
            found.append((row, f"{own} against {row['what']}", row["times_slower_than"][own], 10))
    return [
        {"bar": f"{text}, n = {row['n']}", "times": times, "asked": asked, "met": times >= asked}
        for row, text, times, asked in found
    ]


def print_table(rows: Sequence[dict[str, Any]], console: Console) -> None:
    table = Table("n", "what", "ms", "pair by pair, ms", "speedup", f"times slower than {', '.join(BASELINES)}")
    for row in rows:
        if row["seconds"] is None:
            table.add_row(str(row["n"]), row["what"], "missing", "", "", row["missing"])
            continue
        apart = row.get("pair_by_pair_seconds")
        slower = row.get("times_slower_than", {})
        table.add_row(
            str(row["n"]),
            row["what"],
            f"{1e3 * row['seconds']:.1f}",
            f"{1e3 * apart:.1f}" if apart else "",
            f"{row['speedup']:.1f}" if apart else "",
            ", ".join(f"{slower[name]:.1f}" for name in BASELINES if name in slower),
        )
    console.print(table)
    for bar in bars(rows):
        verdict = "met" if bar["met"] else "missed"
        console.print(f"{bar['bar']}: {bar['times']:.1f} times the speed, required {bar['asked']}: {verdict}")


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.speed", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here")
    parser.add_argument("--sizes", type=int, nargs="+", default=[64, 256], help="batch sizes")
    parser.add_argument("--layers", type=int, default=30)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    torch.empty(7 * 2**20).fill_(0)  # after a process has freed so large a block, glibc keeps freed memory
    rows = [row for n in options.sizes for row in compare(n, options.layers, options.width, options.repeats)]
    print_table(rows, Console(width=None if sys.stdout.isatty() else 140))
    if options.json:
        command = ["python", "-m", "eval.speed", *(sys.argv[1:] if arguments is None else arguments)]
        settings = {key: value for key, value in vars(options).items() if key != "json"}
        options.json.parent.mkdir(parents=True, exist_ok=True)
        record = {**environment(command), **settings, "bars": bars(rows), "rows": rows}
        options.json.write_text(json.dumps(record, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
