"""The first losses of tiny runs: one per estimator that can be rewarded, and one per arm.

A refactoring leaves every number as it is. A change of the method moves some: look at which, and write them again with

    make golden        (python -m tests.golden)
"""

from __future__ import annotations

import json
import math
import re
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import cross_entropy

import mireg
import models
from mireg import estimators
from mireg.ablation import ARMS, Cell, Term
from mireg.ablation.data import load
from mireg.ablation.storage.files import read_result
from mireg.ablation.study.config import RunSpec
from tests.ablation.running import train
from train import build

FILE = Path(__file__).with_name("losses.json")
STEPS = 5
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""What another machine's sums may differ by."""

CELL = Cell(
    "golden",
    "digits",
    "mlp",
    target=0.8,
    steps=STEPS,
    model_options={"depth": 4, "width": 16},
    batch_size=32,
    eval_every=1,
    optimizer="sgd",  # whose steps are as exact as the gradient; Adam's follow the sign of what is almost 0
    lr=0.05,
)

Losses = dict[str, dict[str, Any]]


def rewarded() -> list[str]:
    """Names of the estimators that can be rewarded."""
    return [name for name, kind in estimators.REGISTRY.items() if kind.is_differentiable and not kind.is_learned]


def arms() -> list[str]:
    """Names of the arms that apply; an estimator's own name is short for the arm ``mi-NAME``, and is left out."""
    known = models.options(CELL.model)
    return [name for name in ARMS if name not in estimators.REGISTRY and set(ARMS[name].model_options) <= set(known)]


def losses_of_estimator(name: str) -> list[float]:
    """Loss of each step, the term included, of a float64 network that is rewarded for what it knows of the target."""
    torch.manual_seed(0)
    inputs = torch.randn(64, 6, dtype=torch.float64)
    target = (inputs[:, 0] * inputs[:, 1] > 0).long()
    layers = [nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2)]
    model = mireg.wrap(nn.Sequential(*layers).double(), estimator=name)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for _ in range(STEPS):
        loss = cross_entropy(model(inputs), target) + model.mi_loss(target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def losses_of_arm(name: str) -> dict[str, list[float | None]]:
    """Task loss of each step of a run, and the share that the arm's term has in the whole loss."""
    with tempfile.TemporaryDirectory() as folder:
        spec = RunSpec(CELL.as_trained(name), name, 0, Term())
        train(spec, load(CELL.dataset, Path("data")), build, Path(folder))
        result = read_result(Path(folder) / "result.json")
    assert result is not None
    curve = result["curve"][1:]  # the first point is before training
    return {key: [point[key] for point in curve] for key in ("loss", "term_share")}


def measure() -> Losses:
    """Every golden number, measured now."""
    return {
        "estimators": {name: losses_of_estimator(name) for name in rewarded()},
        "arms": {name: losses_of_arm(name) for name in arms()},
    }


def read() -> Losses:
    """The committed numbers."""
    losses: Losses = json.loads(FILE.read_text())
    return losses


def write(losses: Losses) -> None:
    """Commit to these numbers, at the eight digits that float32 may need; what has not moved stays as it is."""
    before = read() if FILE.exists() else {}
    kept = {
        kind: {name: old if close(new, old := before.get(kind, {}).get(name)) else new for name, new in of.items()}
        for kind, of in losses.items()
    }
    text = json.dumps(_rounded(kept), indent=1)
    FILE.write_text(re.sub(r"\[\s+(.*?)\s+\]", lambda m: f"[{' '.join(m[1].split())}]", text, flags=re.DOTALL) + "\n")


def close(found: Any, golden: Any) -> bool:
    """Whether numbers are those that were committed, but for what another machine's sums may differ by."""
    if isinstance(found, dict) and isinstance(golden, dict):
        return found.keys() == golden.keys() and all(close(found[key], golden[key]) for key in found)
    if isinstance(found, list) and isinstance(golden, list):
        return len(found) == len(golden) and all(map(close, found, golden))
    if isinstance(found, float) and isinstance(golden, float):
        return math.isclose(found, golden, rel_tol=RELATIVE, abs_tol=ABSOLUTE)
    return bool(found == golden)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value
