"""Whether the information that a network has lost before training tells how much the term helps it.

python -m eval.forecast docs/results/convergence [--data-dir DIR]
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from scipy import stats

import mireg
import models
from eval.cells import CONVERGENCE
from eval.overview import speed_of, speed_words
from mireg.ablation.arms import BASELINE, TERM
from mireg.ablation.data import CONTEXT, load
from mireg.ablation.random_state import seed_everything
from mireg.ablation.report.sources import load_results
from mireg.ablation.report.tables import markdown, of_rows
from mireg.ablation.storage.files import write_json
from mireg.ablation.tasks import arguments
from mireg.kept import share_lost

FILE = "forecast.json"
SAMPLES = 128


def lost(name: str, data_dir: Path, seed: int = 100) -> float:
    """The share of the input's information that the last layer of a cell's network has lost before training."""
    cell = next(cell for cell in CONVERGENCE.cells if cell.name == name)
    data = load(cell.dataset, data_dir, cell.model_options.get("context", CONTEXT), cell.task)
    seed_everything(seed)
    model = mireg.wrap(models.build(cell.model, cell.model_options, data.input_shape, data.outputs)).train()
    model(*arguments(data.train.batch(slice(0, SAMPLES))[0]))
    model.mi_loss()
    kept = torch.stack(list(model.regularizer.state_dict()["kept"].values()))
    return float(share_lost(kept, model.regularizer.estimator.certain)[-1])


def block(shares: Mapping[str, float], summary: Mapping[str, Any]) -> str:
    """What it tells, over the cells that have both, as Markdown: the rank correlation, and a line per cell."""
    rows = [
        (shares[cell["cell"]], speed, cell["cell"], speed_words(cell, cell["arms"][TERM]))
        for cell in summary["cells"]
        if cell["cell"] in shares and TERM in cell["arms"] and (speed := speed_up(cell)) is not None
    ]
    if len(rows) < 5:
        return "Not measured: fewer than five cells have both.\n"
    body = [[name, f"{share:.0%}", text] for share, _, name, text in sorted(rows, reverse=True)]
    table = markdown(of_rows(("cell", "lost before training", "speed of `mi`"), body))
    return "\n".join([verdict([row[0] for row in rows], [row[1] for row in rows]), "", *table, ""])


def speed_up(cell: Mapping[str, Any]) -> float | None:
    """The speed of the term, `none` being 1: infinite where only the term reaches the goal; None if neither does."""
    if cell["target"] is not None:
        ours, theirs = (
            cell["arms"].get(name, {}).get("steps_to_target", {}).get("median") for name in (TERM, BASELINE)
        )
        if ours is None or theirs is None:
            return None if ours is None else math.inf
    found = speed_of(cell, cell["arms"][TERM])[0]
    return found[0] if found else None


def verdict(shares: Sequence[float], speeds: Sequence[float]) -> str:
    """The rank correlation in words."""
    test = stats.spearmanr(shares, speeds)
    tells = test.pvalue < 0.05 and test.statistic > 0
    end = "the more is lost, the more the term helps"
    if not tells:
        end = "it does not tell which networks the term helps: compare, for a few hundred steps"
    return (
        "Spearman's rank correlation of the share of the input's information that the last layer has lost before "
        f"training with the speed is {test.statistic:.2f} over {len(shares)} cells (p = {test.pvalue:.2g}): {end}."
    )


def main() -> int:
    """Measure the cells of an archive that have runs of the term, and keep the shares in it."""
    parser = argparse.ArgumentParser(prog="python -m eval.forecast", description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--data-dir", type=Path, default=Path("data"))
    a = parser.parse_args()
    cells = sorted({run["cell"] for run in load_results(a.archive) if run["arm"] == TERM})
    shares = {name: round(lost(name, a.data_dir), 4) for name in cells}
    write_json(a.archive / FILE, shares)
    print(shares)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
