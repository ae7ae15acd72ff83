"""The learning rates that tuning has chosen, in a study's folder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mireg.ablation.storage.files import read_json, write_json

TUNING = "tuning.json"
"""File in a study's folder with the chosen and the tried learning rates, by cell and arm."""

Choices = dict[str, dict[str, dict[str, Any]]]


def read_tuning(folder: Path) -> Choices:
    """Read the choices made so far; empty without tuning."""
    found = read_json(folder / TUNING)
    return found if isinstance(found, dict) else {}


def write_tuning(folder: Path, cell: str, arms: Mapping[str, dict[str, Any]]) -> None:
    """Add the choices for a cell's arms to those of the study."""
    record = read_tuning(folder)
    record[cell] = {**record.get(cell, {}), **arms}
    write_json(folder / TUNING, record)
