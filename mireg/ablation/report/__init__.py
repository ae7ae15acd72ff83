"""Report on the runs of a study, or on any curves: summary, tables, verdicts, charts and a page.

``mireg.ablation.report(curves, ...)`` is :func:`mireg.ablation.report.sources.report`.
"""

import sys
from types import ModuleType

from mireg.ablation.report.page import print_places
from mireg.ablation.report.sources import report, show
from mireg.ablation.report.summary import summarise
from mireg.ablation.report.tables import print_table, tables

__all__ = ["print_places", "print_table", "report", "show", "summarise", "tables"]


class _Callable(ModuleType):
    """A package that is also the function of its name."""

    __call__ = staticmethod(report)


sys.modules[__name__].__class__ = _Callable
