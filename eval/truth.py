"""Every estimator on samples whose mutual information is known.

python -m eval.truth --json docs/results/truth/truth.json --workers 2
"""

from __future__ import annotations

import argparse
import json
import math
import platform
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import scipy
import sklearn
import torch
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table
from scipy.special import digamma, gammaln, ndtr
from torch import Tensor

from mireg import estimators
from mireg.ablation.record import processor
from mireg.estimators import Estimator
from mireg.estimators.infonce import InfoNCE
from mireg.measure import recommend
from mireg.regularizer import FOR_TRAINING
from mireg.version import __version__

SAMPLES = 5000
BATCH = 128
"""Samples that a training step may see."""

Samples = NDArray[np.float64]
Sampler = Callable[[int, np.random.Generator], tuple[Samples, Samples]]
Map = Callable[[Samples], Samples]


@dataclass(frozen=True)
class Task:
    """A distribution of (X, Y) whose mutual information is known.

    Attributes:
        true: the MI in nats.
        sides: units of X and of Y.
        family: ``"normal"``, ``"multinormal"`` or another; claims are made per family.
    """

    name: str
    family: str
    sides: tuple[int, int]
    true: float
    sample: Sampler


def bivariate_nats(rho: float) -> float:
    """MI of a bivariate normal of correlation rho.

    >>> round(bivariate_nats(0.99), 6)
    1.958518
    """
    return -math.log1p(-(rho**2)) / 2


def dense_nats(d: int, rho: float) -> float:
    """MI of the two halves of a 2d-dimensional normal with all correlations rho.

    >>> [round(dense_nats(d, 0.5), 6) for d in (2, 3, 5, 25, 50)]
    [0.293893, 0.413339, 0.592812, 1.292184, 1.624265]
    """

    def log_determinant(size: int) -> float:
        return (size - 1) * math.log1p(-rho) + math.log1p((size - 1) * rho)

    return log_determinant(d) - log_determinant(2 * d) / 2


def student_nats(nu: float, k: int) -> float:
    """MI of the two halves of a 2k-dimensional Student t with identity scatter.

    >>> [round(student_nats(k, k), 6) for k in (1, 2, 3)]
    [0.224171, 0.193147, 0.178712]
    """

    def entropy(size: int) -> float:
        half = (nu + size) / 2
        return float(
            gammaln(nu / 2)
            - gammaln(half)
            + size / 2 * math.log(nu * math.pi)
            + half * (digamma(half) - digamma(nu / 2))
        )

    return 2 * entropy(k) - entropy(2 * k)


def uniform_nats(epsilon: float) -> float:
    """MI of x ~ U(0, 1) and x + U(-epsilon, epsilon).

    >>> [round(uniform_nats(epsilon), 6) for epsilon in (0.1, 0.75)]
    [1.709438, 0.333333]
    """
    return epsilon - math.log(2 * epsilon) if epsilon <= 0.5 else 1 / (4 * epsilon)


def gamma_exponential_nats(shape: float) -> float:
    """MI of x ~ Gamma(shape) and y ~ Exponential(rate x).

    >>> round(gamma_exponential_nats(1), 6)
    0.422784
    """
    return float(digamma(shape) - math.log(shape) + 1 / shape)


def normal(covariance: NDArray[np.float64]) -> Sampler:
    """Halves of a normal of that covariance."""
    root, half = np.linalg.cholesky(covariance), len(covariance) // 2

    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        z = random.standard_normal((n, 2 * half)) @ root.T
        return z[:, :half], z[:, half:]

    return sample


def pairs_in(d: int, rhos: Sequence[float]) -> Sampler:
    """Normals of d independent units per side, the first of them correlated across sides."""
    covariance = np.eye(2 * d)
    for unit, rho in enumerate(rhos):
        covariance[unit, d + unit] = covariance[d + unit, unit] = rho
    return normal(covariance)


def student(nu: float, k: int) -> Sampler:
    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        z = random.standard_normal((n, 2 * k)) * np.sqrt(nu / random.chisquare(nu, (n, 1)))
        return z[:, :k], z[:, k:]

    return sample


def additive_uniform(epsilon: float) -> Sampler:
    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        x = random.uniform(size=(n, 1))
        return x, x + random.uniform(-epsilon, epsilon, size=(n, 1))

    return sample


def gamma_exponential(shape: float) -> Sampler:
    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        x = random.gamma(shape, size=(n, 1))
        return x, random.exponential(size=(n, 1)) / x

    return sample


def mapped(sampler: Sampler, of_x: Map, of_y: Map) -> Sampler:
    """Samples taken through invertible maps, which leave the MI as it is."""

    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        x, y = sampler(n, random)
        return of_x(x), of_y(y)

    return sample


def half_cube(x: Samples) -> Samples:
    return x * np.sqrt(np.abs(x))


def swiss_roll(x: Samples) -> Samples:
    """A line rolled up in the plane."""
    t = 1.5 * math.pi * (1 + 2 * ndtr(x))
    return np.hstack([t * np.cos(t), t * np.sin(t)]) / 21


def spiral(x: Samples) -> Samples:
    """The first two units turned by an angle that grows with the squared length of the sample."""
    angle = np.square(x).sum(1, keepdims=True) / 3
    a, b = x[:, :1], x[:, 1:2]
    turned = [np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b]
    return np.hstack([*turned, x[:, 2:]])


@dataclass(frozen=True)
class Grid:
    """Parameters of the task families.

    Attributes:
        rhos: correlations of bivariate normals.
        mapped_rho: correlation of the bivariate normal that is taken through maps.
        dense: (correlation, units per side) of normals with all correlations equal.
        pairs: (correlation, units per side) of normals with two correlated pairs.
        spirals: the same, turned.
        epsilons: of additive uniform noise.
        students: (degrees of freedom, units per side).
        shapes: of gamma-exponential samples.
        independent: units per side.
    """

    rhos: tuple[float, ...]
    mapped_rho: float
    dense: tuple[tuple[float, int], ...]
    pairs: tuple[tuple[float, int], ...]
    spirals: tuple[tuple[float, int], ...]
    epsilons: tuple[float, ...]
    students: tuple[tuple[float, int], ...]
    shapes: tuple[float, ...]
    independent: tuple[int, ...]


LISTED = Grid(
    rhos=(0.5, 0.75, 0.8, 0.9, 0.95, 0.99),
    mapped_rho=0.75,
    dense=((0.5, 2), (0.5, 3), (0.5, 5), (0.5, 25), (0.5, 50)),
    pairs=((0.8, 2), (0.8, 3), (0.8, 5), (0.8, 25)),
    spirals=((0.8, 3),),
    epsilons=(0.1, 0.25, 0.5, 0.75),
    students=((1, 1), (2, 2), (3, 3)),
    shapes=(1, 3),
    independent=(1, 2, 5, 25),
)
"""The tasks that settings of the estimators were chosen on."""

HELD_OUT = Grid(
    rhos=(0.3, 0.65, 0.85, 0.97),
    mapped_rho=0.6,
    dense=((0.3, 2), (0.7, 3), (0.3, 5), (0.7, 5), (0.3, 25)),
    pairs=((0.6, 2), (0.9, 2), (0.6, 3), (0.9, 5)),
    spirals=((0.6, 3), (0.9, 2)),
    epsilons=(0.15, 0.4, 1.0),
    students=((2, 1), (1.5, 2), (5, 3)),
    shapes=(2, 5),
    independent=(3, 10),
)
"""Tasks of the same families with other parameters."""


def tasks(grid: Grid = LISTED) -> list[Task]:
    """The tasks, in the families of Czyż et al., Beyond Normal, NeurIPS 2023."""
    found = [Task(f"normal, ρ = {rho}", "normal", (1, 1), bivariate_nats(rho), pairs_in(1, [rho])) for rho in grid.rhos]
    rho = grid.mapped_rho
    base, nats = pairs_in(1, [rho]), bivariate_nats(rho)
    found += [
        Task(f"normal, ρ = {rho}, normal CDF", "normal", (1, 1), nats, mapped(base, ndtr, ndtr)),
        Task(f"normal, ρ = {rho}, half-cube", "normal", (1, 1), nats, mapped(base, half_cube, half_cube)),
        Task(f"normal, ρ = {rho}, Swiss roll", "Swiss roll", (2, 1), nats, mapped(base, swiss_roll, ndtr)),
    ]
    for rho, d in grid.dense:
        covariance = np.full((2 * d, 2 * d), rho) + (1 - rho) * np.eye(2 * d)
        name = f"multinormal, all ρ = {rho}, {d} per side"
        found.append(Task(name, "multinormal", (d, d), dense_nats(d, rho), normal(covariance)))
    for rho, d in grid.pairs:
        name = f"multinormal, two pairs ρ = {rho}, {d} per side"
        found.append(Task(name, "multinormal", (d, d), 2 * bivariate_nats(rho), pairs_in(d, [rho, rho])))
    for rho, d in grid.spirals:
        name, turned = f"two pairs ρ = {rho}, spiral, {d} per side", mapped(pairs_in(d, [rho, rho]), spiral, spiral)
        found.append(Task(name, "spiral", (d, d), 2 * bivariate_nats(rho), turned))
    found += [
        Task(f"uniform noise, ε = {e}", "additive uniform", (1, 1), uniform_nats(e), additive_uniform(e))
        for e in grid.epsilons
    ]
    found += [
        Task(f"Student t, ν = {nu}, {k} per side", "Student t", (k, k), student_nats(nu, k), student(nu, k))
        for nu, k in grid.students
    ]
    found += [
        Task(
            f"gamma-exponential, shape {s}",
            "gamma-exponential",
            (1, 1),
            gamma_exponential_nats(s),
            gamma_exponential(s),
        )
        for s in grid.shapes
    ]
    found += [
        Task(f"independent normals, {d} per side", "independent", (d, d), 0.0, pairs_in(d, []))
        for d in grid.independent
    ]
    return found


@dataclass(frozen=True)
class Contender:
    """An estimator with its options, and the sample sizes at which it is tried."""

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
        {**FOR_TRAINING["usable"], "per_dimension": False, "shared_noise": 0.0},
        (BATCH,),
    ),
    Contender("kde", "kde", {"bandwidth": "auto"}, (SAMPLES, BATCH)),
    Contender("kde, as in training", "kde", {**FOR_TRAINING["kde"], "shared_noise": 0.0}, (BATCH,)),
    Contender("renyi", "renyi", {}, (SAMPLES, BATCH)),
    Contender("renyi, α = 1.01", "renyi", {"alpha": 1.01}, (BATCH,)),
    Contender("usable", "usable", {}, (SAMPLES, BATCH)),
    Contender("hsic", "hsic", {}, (SAMPLES, BATCH)),
    Contender("hsic, unbiased", "hsic", {"unbiased": True}, (BATCH,)),
    Contender("cka", "cka", {}, (SAMPLES, BATCH)),
    Contender("cka, unbiased", "cka", {"unbiased": True}, (BATCH,)),
    Contender("gaussian", "gaussian", {}, (SAMPLES, BATCH)),
    Contender("binning", "binning", {"slices": 8}, (SAMPLES, BATCH)),
    Contender("binning, as in training", "binning", {**FOR_TRAINING["binning"], "shared_noise": 0.0}, (BATCH,)),
    Contender("infonce", "infonce", {}, (SAMPLES,)),
    Contender("ksg", "ksg", {}, (SAMPLES, BATCH)),
    Contender("hard_binning", "hard_binning", {}, (SAMPLES, BATCH)),
]
"""Every estimator; one slice is all that binning needs of a single unit, and few show what it reads of several."""


def estimate(contender: Contender, x: Tensor, y: Tensor) -> float:
    """One estimate; a critic is fitted on the first half of the samples and judged on the second."""
    estimator = contender.make()
    if isinstance(estimator, InfoNCE):
        half = len(x) // 2
        estimator.fit(x[:half], y[:half])
        x, y = x[half:], y[half:]
    with torch.no_grad():
        return estimator(x, y).item()


def draw(task: Task, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Samples (n, dx) and (n, dy) in float32, the same for every estimator."""
    x, y = task.sample(n, np.random.default_rng([seed, n]))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()


def judge(index: int, seeds: int, grid: Grid = LISTED, labels: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Rows of the table for one task of a grid: every contender, or those named, at each of its sample sizes."""
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


@dataclass(frozen=True)
class Claim:
    """A bound on the absolute bias of one estimator over a set of tasks, n = 5000.

    Where the null floor is known, as it is of independent samples, an estimate that near to it will do.
    """

    text: str
    estimator: str
    bound: float
    covers: Callable[[dict[str, Any]], bool]


def _narrow(row: dict[str, Any], widest: int) -> bool:
    return max(row["sides"]) <= widest and row["family"] != "independent"


def _multinormal(row: dict[str, Any], widest: int) -> bool:
    plain = row["family"] == "normal" and row["task"].count(",") == 1
    return (row["family"] == "multinormal" or plain) and _narrow(row, widest)


CLAIMS = [
    Claim("multinormals up to 5 per side", "gaussian", 0.03, lambda row: _multinormal(row, 5)),
    Claim("multinormals of 25 per side", "gaussian", 0.10, lambda row: _multinormal(row, 25)),
    Claim("every task of at most 2 per side", "ksg", 0.05, lambda row: _narrow(row, 2)),
    Claim(
        "one-dimensional normal and additive-uniform tasks",
        "binning",
        0.05,
        lambda row: row["family"] in ("normal", "additive uniform"),
    ),
    Claim("every task of at most 2 per side", "kde", 0.10, lambda row: _narrow(row, 2)),
    Claim("multinormals up to 5 per side", "infonce", 0.10, lambda row: _multinormal(row, 5)),
    *(
        Claim("independent normals", name, 0.05, lambda row: row["family"] == "independent")
        for name in ("kde", "renyi", "gaussian", "binning", "infonce", "ksg", "hard_binning")
    ),
]


def verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each claim with its worst task; the last is on the estimator that ``measure`` recommends."""
    large = [row for row in rows if row["n"] == SAMPLES]
    found = []
    for claim in CLAIMS:
        covered = [row for row in large if row["estimator"] == claim.estimator and claim.covers(row)]
        if not covered:
            continue
        missed = [row for row in covered if abs(row["bias"]) > claim.bound]
        failed = [row for row in missed if not _at_floor(row, claim.bound)]
        excused = [row["task"] for row in missed if row not in failed]
        text = f"{claim.estimator}: {claim.text}, within {claim.bound}"
        found.append({**_verdict(text, covered, failed), "at_null_floor": excused})
    recommended = [row for row in large if row["recommended"]]
    if not recommended:
        return found
    failed = [row for row in recommended if abs(row["bias"]) > max(0.05, 0.15 * row["true"])]
    found.append(_verdict("recommended: every task, within 0.05 or 15%", recommended, failed))
    return found


def _at_floor(row: dict[str, Any], bound: float) -> bool:
    floor = row.get("null_floor")
    return floor is not None and abs(row["mean"] - floor) <= bound


def _verdict(text: str, covered: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    worst = max(covered, key=lambda row: abs(row["bias"]))
    return {
        "claim": text,
        "holds": not failed,
        "tasks": len(covered),
        "worst_bias": worst["bias"],
        "worst_task": worst["task"],
        "failed": [row["task"] for row in failed],
    }


def draw_figure(rows: Sequence[dict[str, Any]]) -> Figure:
    """Bias of every MI estimator on every task at n = 5000, as a coloured table."""
    large = [row for row in rows if row["n"] == SAMPLES and row["bias"] is not None]
    names = list(dict.fromkeys(row["task"] for row in large))
    labels = list(dict.fromkeys(row["estimator"] for row in large))
    bias, weight = np.full((len(names), len(labels)), np.nan), {}
    for row in large:
        place = names.index(row["task"]), labels.index(row["estimator"])
        bias[place], weight[place] = row["bias"], "bold" if row["recommended"] else "normal"
    figure, axes = plt.subplots(figsize=(9, 0.28 * len(names) + 1.5), layout="constrained")
    image = axes.imshow(bias, cmap="RdBu_r", vmin=-0.5, vmax=0.5, aspect="auto")
    for (i, j), value in np.ndenumerate(bias):
        color = "w" if abs(value) > 0.3 else "k"
        axes.text(j, i, f"{value:+.2f}", ha="center", va="center", fontsize=7, color=color, weight=weight.get((i, j)))
    axes.set_xticks(range(len(labels)), labels, fontsize=9)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_title(f"Bias in nats, n = {SAMPLES}, mean over {large[0]['seeds']} seeds; bold: recommended", fontsize=10)
    figure.colorbar(image, ax=axes, shrink=0.5, extend="both")
    return figure


def print_tables(rows: Sequence[dict[str, Any]], claims: Sequence[dict[str, Any]], console: Console) -> None:
    """The whole table, then the claims."""
    table = Table("task", "n", "estimator", title="Estimates of known mutual information, in nats")
    for column in ("true", "mean", "bias", "std", "seconds"):
        table.add_column(column, justify="right")
    for row in rows:
        bias = row["measures"] if row["bias"] is None else f"{row['bias']:+.3f}"
        star = "*" if row["recommended"] else ""
        numbers = (f"{row['true']:.3f}", f"{row['mean']:.3f}", bias, f"{row['std']:.3f}", f"{row['seconds']:.3f}")
        table.add_row(row["task"], str(row["n"]), row["estimator"] + star, *numbers)
    console.print(table, "* recommended by mireg.measure")
    for claim in claims:
        held = "holds" if claim["holds"] else f"FAILS on {', '.join(claim['failed'])}"
        if claim.get("at_null_floor"):
            held += f", at its null floor on {', '.join(claim['at_null_floor'])}"
        console.print(f"{claim['claim']}: {held} (worst {claim['worst_bias']:+.3f}, {claim['worst_task']})")


def environment(command: Sequence[str]) -> dict[str, Any]:
    """What a number depends on beside the code: command, versions, machine."""
    return {
        "command": " ".join(command),
        "mireg": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "scikit-learn": sklearn.__version__,
        "machine": f"{platform.machine()}, {processor()}, {platform.system()}",
    }


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m eval.truth", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the rows here, and the figure beside them (.png)")
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--workers", type=int, default=1, help="processes of one thread each")
    parser.add_argument("--tasks", default="", help="only tasks whose name contains this")
    labels = [contender.label for contender in CONTENDERS]
    parser.add_argument("--estimators", nargs="+", default=[], choices=labels, metavar="NAME", help="only these")
    parser.add_argument("--held-out", action="store_true", help="tasks that no setting was chosen on")
    options = parser.parse_args(arguments)
    grid = HELD_OUT if options.held_out else LISTED
    names = [task.name for task in tasks(grid)]
    chosen = [index for index, name in enumerate(names) if options.tasks in name]
    if not chosen:
        parser.error(f"no task is named like {options.tasks!r}: " + "; ".join(names))
    console = Console(width=None if sys.stdout.isatty() else 140)
    command = ["python", "-m", "eval.truth", *(sys.argv[1:] if arguments is None else arguments)]
    record: dict[str, Any] = {**environment(command), "workers": options.workers, "claims": [], "rows": []}
    start = time.perf_counter()
    with ProcessPoolExecutor(options.workers, mp_context=get_context("spawn")) as pool:
        finished = pool.map(
            judge, chosen, *zip(*[(options.seeds, grid, options.estimators)] * len(chosen), strict=True)
        )
        for rows in track(finished, "tasks", total=len(chosen), console=Console(stderr=True), transient=True):
            record["rows"] += rows
            record["seconds"] = round(time.perf_counter() - start, 1)
            if options.json:  # after every task: an interrupted run leaves what it found
                _write(options.json, record)
    if len(chosen) == len(names):
        record["claims"] = verdicts(record["rows"])
    print_tables(record["rows"], record["claims"], console)
    if options.json:
        _write(options.json, record)
        if any(row["n"] == SAMPLES and row["bias"] is not None for row in record["rows"]):
            draw_figure(record["rows"]).savefig(options.json.with_suffix(".png"), dpi=150)
    return 0


def _write(path: Path, record: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(record, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    sys.exit(main())
