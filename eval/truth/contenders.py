"""Estimates of every estimator on a task."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from eval.truth.tasks import LISTED, Grid, draw, tasks
from mireg import estimators
from mireg.estimators import REGISTRY, Estimator
from mireg.estimators.infonce import InfoNCE
from mireg.measure import recommend

SAMPLES = 5000

BATCH = 128
"""Number of samples of a typical training step."""


@dataclass(frozen=True)
class Contender:
    """An estimator with its options, and the sample sizes at which it is tested."""

    label: str
    name: str
    options: dict[str, Any]
    sizes: tuple[int, ...]

    def make(self) -> Estimator:
        return estimators.get(self.name, **self.options)


CONTENDERS = [
    Contender("usable", "usable", {}, (SAMPLES, BATCH)),
    Contender(
        "usable, as in training",
        "usable",
        {**REGISTRY["usable"].reward_options, "per_dimension": False, "shared_noise": 0.0},
        (BATCH,),
    ),
    Contender("kde", "kde", {"bandwidth": "auto"}, (SAMPLES, BATCH)),
    Contender("kde, as in training", "kde", {**REGISTRY["kde"].reward_options, "shared_noise": 0.0}, (BATCH,)),
    Contender("renyi", "renyi", {}, (SAMPLES, BATCH)),
    Contender("renyi, α = 1.01", "renyi", {"alpha": 1.01}, (BATCH,)),
    Contender("hsic", "hsic", {}, (SAMPLES, BATCH)),
    Contender("hsic, unbiased", "hsic", {"unbiased": True}, (BATCH,)),
    Contender("cka", "cka", {}, (SAMPLES, BATCH)),
    Contender("cka, unbiased", "cka", {"unbiased": True}, (BATCH,)),
    Contender("gaussian", "gaussian", {}, (SAMPLES, BATCH)),
    Contender("binning", "binning", {"slices": 8}, (SAMPLES, BATCH)),
    Contender(
        "binning, as in training",
        "binning",
        {**REGISTRY["binning"].reward_options, "shared_noise": 0.0},
        (BATCH,),
    ),
    Contender("infonce", "infonce", {}, (SAMPLES,)),
    Contender("ksg", "ksg", {}, (SAMPLES, BATCH)),
    Contender("hard_binning", "hard_binning", {}, (SAMPLES, BATCH)),
]
"""Every estimator; binning needs one slice for a single unit, and a few are enough for several units."""


def estimate(contender: Contender, x: Tensor, y: Tensor) -> float:
    """Compute one estimate; a critic is fitted on the first half of the samples and evaluated on the second."""
    estimator = contender.make()
    if isinstance(estimator, InfoNCE):
        half = len(x) // 2
        estimator.fit(x[:half], y[:half])
        x, y = x[half:], y[half:]
    with torch.no_grad():
        return estimator(x, y).item()


def judge(index: int, seeds: int, grid: Grid = LISTED, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of the table for one task of a grid, for all contenders or those named, at each of their sample sizes."""
    torch.set_num_threads(1)
    task = tasks(grid)[index]
    rows = []
    for contender in CONTENDERS:
        for n in contender.sizes if not labels or contender.label in labels else ():
            values, floors, seconds = [], [], []
            for seed in range(seeds):
                x, y = draw(task, n, seed)
                start = time.perf_counter()
                values.append(estimate(contender, x, y))
                seconds.append(time.perf_counter() - start)
                if task.family == "independent" and contender.name != "infonce":
                    floors.append(contender.make().null_floor(x, y, permutations=1).item())
            is_mi = contender.make().measures == "mutual information"
            rows.append(
                {
                    "estimator": contender.label,
                    "options": contender.options,
                    "measures": contender.make().measures,
                    "task": task.name,
                    "family": task.family,
                    "sides": list(task.sides),
                    "n": n,
                    "seeds": seeds,
                    "true": task.true,
                    "mean": float(np.mean(values)),
                    "bias": float(np.mean(values) - task.true) if is_mi else None,
                    "std": float(np.std(values, ddof=1)) if seeds > 1 else 0.0,
                    "seconds": float(np.median(seconds)),
                    "null_floor": float(np.mean(floors)) if floors else None,
                    "recommended": n == SAMPLES and contender.label == recommend(*draw(task, n, 0)),
                }
            )
    return rows
