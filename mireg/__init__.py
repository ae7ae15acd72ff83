"""Estimate and reward the mutual information between successive layers of a network."""

from mireg import estimators, schedules
from mireg.measure import measure
from mireg.regularizer import MIRegularizer
from mireg.wrapper import MIRegularized, wrap

__version__ = "0.1.0"

__all__ = ["MIRegularized", "MIRegularizer", "estimators", "measure", "schedules", "wrap"]
