"""Whether the arms of a seed started from equal weights and saw equal batches."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mireg.ablation.arms import BASELINE


def unpaired(results: Iterable[Mapping[str, Any]], baseline: str = BASELINE) -> dict[str, dict[str, list[str]]]:
    """Find the arms whose runs are not paired with those of the baseline.

    Arms that change the network by its options, such as BatchNorm, differ on purpose and are left out.

    Args:
        results: results of runs. Their ``pairing`` has digests of the initial ``weights`` and of the first ``batches``,
            of which there were ``n_batches``.
        baseline: the arm to compare with.

    Returns:
        By cell and arm, ``"weights"`` or ``"batches"`` or both; empty if all is well.
    """
    by_run = {(r["cell"], r["seed"], r["arm"]): r for r in results if "pairing" in r}
    found: dict[str, dict[str, list[str]]] = {}
    for (cell, seed, arm), run in by_run.items():
        other = by_run.get((cell, seed, baseline))
        if other is None or _options(other) != _options(run):
            continue
        ours, theirs = run["pairing"], other["pairing"]
        comparable = ["weights", "batches"] if ours["n_batches"] == theirs["n_batches"] else ["weights"]
        if differ := [what for what in comparable if ours[what] != theirs[what]]:
            known = found.setdefault(cell, {}).setdefault(arm, [])
            known += [what for what in differ if what not in known]
    return found


def _options(run: Mapping[str, Any]) -> Any:
    return run["spec"]["cell"].get("model_options")
