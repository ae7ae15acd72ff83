"""Tasks with known mutual information, in the families of Czyż et al., Beyond Normal, NeurIPS 2023."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import ndtr
from torch import Tensor

from eval.truth.distributions import (
    Sampler,
    additive_uniform,
    bivariate_nats,
    dense_nats,
    gamma_exponential,
    gamma_exponential_nats,
    half_cube,
    mapped,
    normal,
    pairs_in,
    spiral,
    student,
    student_nats,
    swiss_roll,
    uniform_nats,
)


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


@dataclass(frozen=True)
class Grid:
    """Parameters of the task families.

    Attributes:
        rhos: correlations of bivariate normals.
        mapped_rho: correlation of the bivariate normal that is transformed by maps.
        dense: (correlation, units per side) of normals with all correlations equal.
        pairs: (correlation, units per side) of normals with two correlated pairs.
        spirals: the same, with the spiral map applied.
        epsilons: widths of additive uniform noise.
        students: (degrees of freedom, units per side) of Student t samples.
        shapes: shapes of gamma-exponential samples.
        independent: units per side of independent normals.
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
"""The tasks on which settings of the estimators were chosen."""


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
    """The tasks of a grid, in the families of Czyż et al., Beyond Normal, NeurIPS 2023."""
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


def draw(task: Task, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Draw samples (n, dx) and (n, dy) in float32, the same for every estimator."""
    x, y = task.sample(n, np.random.default_rng([seed, n]))
    return torch.from_numpy(x).float(), torch.from_numpy(y).float()
