"""Results of runs that never ran, as :func:`mireg.ablation.training.run.Run.write` writes them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mireg.ablation.arms import Term
from mireg.ablation.storage.files import write_json
from mireg.ablation.study.config import Cell, RunSpec

TARGET = 0.75


def result(
    arm: str,
    seed: int,
    reached: int | None,
    *,
    cell: str = "cell",
    steps: int = 1000,
    step_ms: float = 2.0,
    target: float | None = TARGET,
    metric: str = "accuracy",
    values: tuple[float, float] | None = None,
) -> dict[str, Any]:
    """A run whose metric jumps over the target at step ``reached``; None for never.

    Args:
        arm: of the run.
        seed: of the run.
        reached: step of the jump.
        cell: its name.
        steps: budget.
        step_ms: milliseconds of each step.
        target: of the cell.
        metric: of the cell.
        values: of the metric before and after the jump, the latter also in the end; by default accuracies.
    """
    spec = RunSpec(Cell(cell, "digits", "mlp", target, steps, metric=metric), arm, seed, Term())
    before, after = values or (0.1 + 0.01 * seed, 0.9)
    curve = []
    for step in range(0, steps + 1, 25):
        there = reached is not None and step >= reached
        curve.append(
            {
                "step": step,
                "seconds": step * step_ms / 1000,
                f"validation_{metric}": after if there else before,
                "loss": 0.3 if there else 2.3,
                "term_share": None if arm == "none" else 0.2,
                "step_ms": step_ms if step else None,
                "mi": {"input→layers.0": 3.0, "layers.0→layers.1": 2.0 if there else 0.5},
            }
        )
    final = 0.88 if reached is not None else 0.1 + 0.1 * seed
    return {
        "cell": cell,
        "arm": arm,
        "seed": seed,
        "lr": 1e-3,
        "failure": None,
        "seconds": curve[-1]["seconds"],
        f"test_{metric}": after if values else final,
        "task": "classification",
        "curve": curve,
        "spec": spec.as_dict(),
    }


def write_study(folder: Path, results: Sequence[dict[str, Any]]) -> None:
    """Lay results out as a study's folder."""
    arms = list(dict.fromkeys(run["arm"] for run in results))
    write_json(folder / "study.json", {"study": "synthetic", "arms": arms})
    for run in results:
        write_json(folder / "runs" / run["cell"] / run["arm"] / f"seed-{run['seed']}" / "result.json", run)
