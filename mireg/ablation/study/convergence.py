"""The study that settles where the term helps and where it does not: seven cells to rescue, seven to leave unharmed."""

from __future__ import annotations

from typing import Any

from mireg.ablation.study.config import Cell, Study, Tuning

TERM = ("none", "mi")

CONTROLS = ("target-shuffled", "mi-label-free", "pairs-shuffled")
"""What the term is without the target, or without anything to reward."""

RIVALS = ("deep-supervision", "last-layer", "lbe")
"""Other terms."""

REMEDIES = ("batchnorm", "residual", "he", "orthogonal", "layerwise-lr")
"""What one would do instead."""

HEALTHY = (*TERM, "target-shuffled", "deep-supervision", "last-layer")
"""Arms of the cells that train by themselves."""

HEAVY = (*TERM, "target-shuffled", "deep-supervision")
"""Arms of the cells whose runs take minutes."""


def _cell(name: str, model: str, target: float, steps: int, arms: tuple[str, ...], **options: Any) -> Cell:
    return Cell(name, "fashion-mnist", model, target, steps, model_options=options, arms=arms, seeds=10)


def _heavy(name: str, model: str, target: float, steps: int, arms: tuple[str, ...], **options: Any) -> Cell:
    return Cell(
        name,
        "fashion-mnist",
        model,
        target,
        steps,
        model_options=options,
        arms=arms,
        seeds=5,
        tuning_steps=steps // 2,
    )


def _beside(*same: str) -> tuple[str, ...]:
    """All arms but the remedies that the cell has already."""
    return (*TERM, *CONTROLS, *RIVALS, *(arm for arm in REMEDIES if arm not in same))


CONVERGENCE = Study(
    name="convergence",
    cells=(
        _cell(
            "R1", "mlp", 0.75, 6000, _beside("orthogonal"), depth=10, width=128, activation="sigmoid", init="orthogonal"
        ),
        _cell(
            "R2", "mlp", 0.70, 1500, _beside("orthogonal"), depth=20, width=128, activation="sigmoid", init="orthogonal"
        ),
        _cell("R3", "mlp", 0.75, 1500, _beside(), depth=30, width=128),
        _cell("R4", "mlp", 0.75, 1000, _beside(), depth=100, width=128),
        _cell(
            "R5",
            "mlp",
            0.75,
            1500,
            (*HEALTHY, "batchnorm", "residual", "orthogonal", "layerwise-lr"),
            depth=64,
            width=32,
            init="he",
        ),
        _heavy("R6", "cnn", 0.65, 600, (*HEAVY, "batchnorm"), depth=14, width=16),
        _heavy("R7", "mlp", 0.60, 1000, (*HEAVY, "batchnorm"), depth=500, width=128),
        _cell("H1", "mlp", 0.80, 1000, HEALTHY, depth=30, width=128, init="he"),
        _cell("H2", "mlp", 0.80, 1000, HEALTHY, depth=30, width=128, init="he", batchnorm=True),
        _cell("H3", "mlp", 0.80, 1000, HEALTHY, depth=30, width=128, residual=True, batchnorm=True),
        _heavy("H4", "cnn", 0.75, 600, HEAVY, depth=14, width=16, batchnorm=True),
        _heavy("H5", "resnet18", 0.80, 300, HEAVY),
        _heavy("H6", "vit", 0.75, 600, HEAVY),
        _cell("H7", "mlp", 0.80, 1000, HEALTHY, depth=3, width=256),
    ),
    arms=(*TERM, *CONTROLS, *RIVALS, *REMEDIES),
    first_seed=100,
    tuning=Tuning(lrs=(3e-4, 1e-3, 3e-3)),
)
