"""Estimate and reward the mutual information between successive layers of a network."""

from mireg import estimators, schedules
from mireg.describe import describe
from mireg.measure import measure
from mireg.term import MIRegularizer
from mireg.version import __version__
from mireg.wrapper import MIRegularized, wrap

__all__ = ["MIRegularized", "MIRegularizer", "__version__", "describe", "estimators", "measure", "schedules", "wrap"]
