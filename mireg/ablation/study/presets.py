"""Named studies of the package; a front end may have more."""

from __future__ import annotations

from mireg.ablation.study.config import Cell, Study

DEMO = Study(
    name="demo",
    cells=(
        Cell("lenet", "digits", "lenet", target=0.6, steps=400, batch_size=64, eval_every=20, optimizer="sgd", lr=0.1),
    ),
    arms=("none", "mi", "mi-label-free", "mi-kde", "mi-binning", "target-shuffled"),
    seeds=6,  # the minimum for the exact paired test to fall below 0.05
)

PRESETS: dict[str, Study] = {DEMO.name: DEMO}
