"""Estimate and reward the mutual information between successive layers of a network."""

from __future__ import annotations

import importlib
from typing import Any

from mireg import estimators, schedules
from mireg.describe import describe
from mireg.measure import measure
from mireg.term import MIRegularizer
from mireg.version import __version__
from mireg.wrapper import MIRegularized, wrap

__all__ = ["MIRegularized", "MIRegularizer", "__version__", "describe", "estimators", "measure", "schedules", "wrap"]


def __getattr__(name: str) -> Any:
    if name == "ablation":  # slow to import
        return importlib.import_module("mireg.ablation")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
