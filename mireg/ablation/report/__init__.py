"""Report on the runs of a study: summary, tables, verdicts, charts and a page."""

from mireg.ablation.report.page import print_places, write, write_tables
from mireg.ablation.report.summary import summarise
from mireg.ablation.report.tables import print_table, tables

__all__ = ["print_places", "print_table", "summarise", "tables", "write", "write_tables"]
