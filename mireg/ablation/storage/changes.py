"""The settings that determine the outcome of a run, and how they differ from those of results that exist."""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from mireg.ablation.errors import UserError
from mireg.ablation.study.config import Cell


def settings(spec: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Extract from a run's specification the settings that determine its outcome, except the seed, in plain types."""
    of_study = {field.name for field in fields(Cell) if "of_study" in field.metadata}
    cell = {key: value for key, value in plain(spec["cell"]).items() if key not in of_study}
    if "dataset" not in cell:  # a user's loop, which says how many steps it took
        del cell["steps"]
    lr = cell.pop("arm_lr").get(spec["arm"], cell["lr"])  # other arms' rates are irrelevant
    return {"cell": {**cell, "lr": lr}, "term": plain(spec["term"])}


def refuse_changes(where: str, old: dict[str, Any], new: dict[str, Any]) -> None:
    """Raise an error that lists every setting that differs from those of existing results, if any does."""
    if changed := differences(old, new):
        raise UserError(
            f"{where} has other settings ({'; '.join(changed)}): go back to those, give another --out, or --fresh"
        )


def differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    """List the settings that differ between two nested dictionaries; unset is the same as None.

    >>> differences({"cell": {"lr": 0.1, "steps": 9}}, {"cell": {"lr": 0.2, "steps": 9}})
    ['cell.lr: 0.1 → 0.2']
    """
    before, after = _flat(old), _flat(new)
    return [
        f"{key}: {before.get(key, 'unset')} → {after.get(key, 'unset')}"
        for key in {**before, **after}
        if before.get(key) != after.get(key)  # what was not yet a setting then is None now
    ]


def completed(record: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """A nested dictionary with the entries that only another one has.

    >>> completed({"steps": {"A": 1}}, {"steps": {"A": 2, "B": 3}})
    {'steps': {'A': 1, 'B': 3}}
    """
    nested = [
        key for key in record.keys() & other.keys() if isinstance(record[key], dict) and isinstance(other[key], dict)
    ]
    return {**other, **record, **{key: completed(record[key], other[key]) for key in nested}}


def plain(value: Any) -> Any:
    """Convert a value to the form it has after a round trip through JSON."""
    return json.loads(json.dumps(value))


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    values: dict[str, Any] = {}
    for key, item in value.items():
        values |= _flat(item, f"{prefix}{key}.") if isinstance(item, dict) else {prefix + key: item}
    return values
