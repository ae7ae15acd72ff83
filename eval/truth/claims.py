"""Claims about the estimators, and whether they hold."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from eval.truth.contenders import SAMPLES


@dataclass(frozen=True)
class Claim:
    """A bound on the absolute bias of one estimator over a set of tasks, n = 5000.

    If the null floor is known, as for independent samples, an estimate within the bound of it is also accepted.
    """

    text: str
    estimator: str
    bound: float
    covers: Callable[[dict[str, Any]], bool]


def _narrow(row: dict[str, Any], widest: int) -> bool:
    return bool(max(row["sides"]) <= widest) and row["family"] != "independent"


def _multinormal(row: dict[str, Any], widest: int) -> bool:
    plain = row["family"] == "normal" and row["task"].count(",") == 1
    return (row["family"] == "multinormal" or plain) and _narrow(row, widest)


CLAIMS = [
    Claim("multinormals up to 5 per side", "gaussian", 0.03, lambda row: _multinormal(row, 5)),
    Claim("multinormals of 25 per side", "gaussian", 0.10, lambda row: _multinormal(row, 25)),
    Claim("every task of at most 2 per side", "ksg", 0.05, lambda row: _narrow(row, 2)),
    Claim(
        "one-dimensional normal and additive-uniform tasks",
        "binning",
        0.05,
        lambda row: row["family"] in ("normal", "additive uniform"),
    ),
    Claim("every task of at most 2 per side", "kde", 0.10, lambda row: _narrow(row, 2)),
    Claim("multinormals up to 5 per side", "infonce", 0.10, lambda row: _multinormal(row, 5)),
    *(
        Claim("independent normals", name, 0.05, lambda row: row["family"] == "independent")
        for name in ("kde", "renyi", "gaussian", "binning", "infonce", "ksg", "hard_binning")
    ),
]


def verdicts(rows: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Check each claim and find its worst task; the last claim is about the estimator that ``measure`` recommends."""
    large = [row for row in rows if row["n"] == SAMPLES]
    found = []
    for claim in CLAIMS:
        covered = [row for row in large if row["estimator"] == claim.estimator and claim.covers(row)]
        if not covered:
            continue
        missed = [row for row in covered if abs(row["bias"]) > claim.bound]
        failed = [row for row in missed if not _at_floor(row, claim.bound)]
        excused = [row["task"] for row in missed if row not in failed]
        text = f"{claim.estimator}: {claim.text}, within {claim.bound}"
        found.append({**_verdict(text, covered, failed), "at_null_floor": excused})
    recommended = [row for row in large if row["recommended"]]
    if not recommended:
        return found
    failed = [row for row in recommended if abs(row["bias"]) > max(0.05, 0.15 * row["true"])]
    found.append(_verdict("recommended: every task, within 0.05 or 15%", recommended, failed))
    return found


def _at_floor(row: dict[str, Any], bound: float) -> bool:
    floor = row.get("null_floor")
    return floor is not None and abs(row["mean"] - floor) <= bound


def _verdict(text: str, covered: list[dict[str, Any]], failed: list[dict[str, Any]]) -> dict[str, Any]:
    worst = max(covered, key=lambda row: abs(row["bias"]))
    return {
        "claim": text,
        "holds": not failed,
        "tasks": len(covered),
        "worst_bias": worst["bias"],
        "worst_task": worst["task"],
        "failed": [row["task"] for row in failed],
    }
