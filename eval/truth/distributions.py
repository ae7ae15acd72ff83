"""Distributions whose mutual information has a closed form, and maps that preserve it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.special import digamma, gammaln, ndtr

Samples = NDArray[np.float64]


Sampler = Callable[[int, np.random.Generator], tuple[Samples, Samples]]


Map = Callable[[Samples], Samples]


def bivariate_nats(rho: float) -> float:
    """MI of a bivariate normal with correlation rho.

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
    """The two halves of a normal with this covariance."""
    root, half = np.linalg.cholesky(covariance), len(covariance) // 2

    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        z = random.standard_normal((n, 2 * half)) @ root.T
        return z[:, :half], z[:, half:]

    return sample


def pairs_in(d: int, rhos: Sequence[float]) -> Sampler:
    """Normals with d independent units per side, the first of which are correlated across sides."""
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
    """Samples transformed by invertible maps, which preserve the MI."""

    def sample(n: int, random: np.random.Generator) -> tuple[Samples, Samples]:
        x, y = sampler(n, random)
        return of_x(x), of_y(y)

    return sample


def half_cube(x: Samples) -> Samples:
    return x * np.sqrt(np.abs(x))


def swiss_roll(x: Samples) -> Samples:
    """Map a line to a Swiss roll in the plane."""
    t = 1.5 * math.pi * (1 + 2 * ndtr(x))
    return np.hstack([t * np.cos(t), t * np.sin(t)]) / 21


def spiral(x: Samples) -> Samples:
    """Rotate the first two units by an angle that grows with the squared norm of the sample."""
    angle = np.square(x).sum(1, keepdims=True) / 3
    a, b = x[:, :1], x[:, 1:2]
    turned = [np.cos(angle) * a - np.sin(angle) * b, np.sin(angle) * a + np.cos(angle) * b]
    return np.hstack([*turned, x[:, 2:]])
