"""Estimators of the mutual information between layers, by name."""

from __future__ import annotations

import inspect
from typing import Any

from mireg.estimators.base import Estimator
from mireg.estimators.binning import Binning
from mireg.estimators.gaussian import Gaussian
from mireg.estimators.hsic import CKA, HSIC
from mireg.estimators.infonce import InfoNCE
from mireg.estimators.kde import KDE
from mireg.estimators.reference import KSG, HardBinning
from mireg.estimators.renyi import Renyi
from mireg.estimators.usable import Usable

REGISTRY = Estimator.registry
"""Estimators by name."""


def get(name: str, **options: Any) -> Estimator:
    """Create an estimator by name.

    Args:
        name: one of :func:`names`.
        options: constructor arguments of the estimator.

    Raises:
        ValueError: if there is no such estimator or option.

    >>> get("kde", bandwidth=0.25)
    KDE(bandwidth=(0.25,), noise_floor=1e-05, shared_noise=0.0)
    """
    if name not in REGISTRY:
        raise ValueError(f"unknown estimator {name!r}: choose from {', '.join(names())}")
    parameters = inspect.signature(REGISTRY[name]).parameters
    known = [key for key, of in parameters.items() if of.kind is not of.VAR_KEYWORD]
    for option in options if len(known) == len(parameters) else ():
        if option not in known:
            raise ValueError(f"estimator {name!r} has no option {option!r}: it has {', '.join(known) or 'none'}")
    try:
        return REGISTRY[name](**options)
    except TypeError as error:
        raise ValueError(f"estimator {name!r}: {error}") from error


def names() -> list[str]:
    """Names of all estimators, for :func:`get`.

    >>> "kde" in names()
    True
    """
    return sorted(REGISTRY)


__all__ = [
    "CKA",
    "HSIC",
    "KDE",
    "KSG",
    "Binning",
    "Estimator",
    "Gaussian",
    "HardBinning",
    "InfoNCE",
    "Renyi",
    "Usable",
    "get",
    "names",
]
