"""The study of where the term helps and where it does not.

Networks that plain training starts late or never, as people build them (N); with one recipe for all, stacks of layers
to rescue (R) and networks that train well (H); and common recipes with a schedule (P).
"""

from __future__ import annotations

from typing import Any

from mireg.ablation.study.config import Cell, Study, Tuning

TERM = ("none", "mi")

CONTROLS = ("target-shuffled", "pairs-shuffled", "kde-shuffled", "binning-shuffled")
"""Arms whose term gets rows that do not belong together."""

VARIANTS = ("target-shuffled", "mi-label-free", "pairs-shuffled")
"""The term without the target, or without anything to reward."""

BASELINES = ("deep-supervision", "last-layer", "lbe")
"""Other loss terms."""

REMEDIES = ("batchnorm", "residual", "he", "orthogonal", "lsuv")
"""Standard alternatives to the term."""

ESTIMATORS = ("mi-kde", "mi-binning", "kde-shuffled", "binning-shuffled")
"""The term with other estimators, without a target, and their controls."""

PUBLISHED = ("layersync", "dispersive", "sigreg")
"""Terms that others published, beside ``lbe``."""

NATURAL = (*TERM, "mi-label-free", "target-shuffled", "deep-supervision")
"""Arms of the cells with networks and recipes as people build them, beside the remedies that an expert would name."""

EXPERT = {
    **dict.fromkeys(("N1", "N1a", "N5", "N5s"), ("xavier",)),
    "N2": ("he", "batchnorm"),
    "N3": ("pre-norm", "warm-up"),
    "N4": ("he",),
    **dict.fromkeys(("N6", "N6b"), ("residual", "pairnorm")),
}
"""The remedies that an expert would name for a network as people build it; for the others, :data:`REMEDIES`."""

KEPT = (*ESTIMATORS, "pairs-shuffled")
"""What reads the information that layers keep of the input, and its controls."""

HEALTHY = (*TERM, "target-shuffled", "deep-supervision", "last-layer")
"""Arms of the cells that train well without help."""

HEAVY = (*TERM, "target-shuffled", "deep-supervision")
"""Arms of the cells whose runs take minutes."""

BUDGETS = {"60": 0.6, "80": 0.8}
"""Shorter schedules of the baseline, as fractions of the steps, to compute the steps that an arm saves."""


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


def _natural(
    name: str,
    model: str,
    target: float,
    steps: int,
    lr: float,
    arms: tuple[str, ...],
    *,
    options: dict[str, Any] | None = None,
    dataset: str = "fashion-mnist",
    batch_size: int = 64,
    seeds: int = 6,
    eval_every: int = 20,
    **recipe: Any,
) -> Cell:
    """A cell with the recipe that comes with its network: every arm has the recipe's rate."""
    return Cell(
        name,
        dataset,
        model,
        target,
        steps,
        model_options=options or {},
        batch_size=batch_size,
        eval_every=eval_every,
        lr=lr,
        tuning_lrs=(lr,),
        arms=(*NATURAL, *EXPERT[name], *arms),
        seeds=seeds,
        **recipe,
    )


def _arms_except(*same: str) -> tuple[str, ...]:
    """All arms except the remedies that the cell already uses."""
    return (*TERM, *VARIANTS, *BASELINES, *(arm for arm in REMEDIES if arm not in same))


def _recipe(name: str, dataset: str, model: str, steps: int, arms: tuple[str, ...], **recipe: Any) -> tuple[Cell, ...]:
    """A cell compared at the end of its schedule (warm-up and cosine), and its baseline with shorter schedules."""
    heavy = "seeds" not in recipe
    seeds = recipe.pop("seeds", 5)
    cells = []
    for suffix, share in {"": 1.0, **{f"-{percent}": share for percent, share in BUDGETS.items()}}.items():
        budget = round(share * steps)
        cell = Cell(
            f"{name}{suffix}",
            dataset,
            model,
            None,
            budget,
            schedule="cosine",
            warmup_steps=budget // 10,
            eval_every=50 if steps <= 1000 else 100,
            arms=TERM[:1] if suffix else arms,
            seeds=seeds,
            tuning_steps=budget // 2 if heavy else None,
            budget_of=name if suffix else None,
            **recipe,
        )
        cells.append(cell)
    return tuple(cells)


# Muon runs in P3 and P6: torch.optim.Muon works in bfloat16, which most CPUs emulate, and then takes a second per step
# on the matrices of P4 and P5. P1, P2 and P7 have no matrices between their first and last layers.

SGD: dict[str, Any] = {
    "optimizer": "sgd",
    "weight_decay": 5e-4,
    "augment": "flip-crop",
    "tuning_lrs": (0.02, 0.05, 0.1),
}
"""SGD with Nesterov momentum 0.9; flips and crops."""

ADAMW_LRS = (1e-3, 3e-3, 1e-2)
"""Learning rates for cells where AdamW can use larger ones than in the default grid."""

REBUILT: dict[str, Any] = {"task": "reconstruction", "metric": "loss"}
"""An autoencoder: squared error per pixel, of pixels with variance 1; the goal is where plain training ends."""

CONVERGENCE = Study(
    name="convergence",
    cells=(
        _natural("N1", "lenet", 0.70, 400, 0.1, (*KEPT, "lbe", *PUBLISHED), optimizer="sgd"),
        _natural("N1a", "lenet", 0.70, 400, 0.9, (), optimizer="sgd", momentum=0.0, batch_size=256),
        _natural(
            "N2",
            "vgg",
            0.75,
            300,
            1e-3,
            KEPT,
            options={"depth": 13, "width": 32},
            seeds=5,
            eval_every=25,
        ),
        _natural("N3", "transformer", 0.70, 300, 1e-3, ("lbe", *PUBLISHED), seeds=5, eval_every=25),
        _natural("N4", "snn", 0.65, 300, 1e-3, ()),
        _natural("N5", "autoencoder", 0.19, 400, 1e-3, KEPT, **REBUILT),
        _natural("N5s", "autoencoder", 0.45, 400, 1e-3, (), options={"activation": "sigmoid"}, **REBUILT),
        _natural("N6", "gcn", 0.70, 300, 0.01, (), dataset="cora", weight_decay=5e-4, seeds=5),
        _natural(
            "N6b",
            "gcn",
            0.70,
            300,
            0.01,
            (),
            options={"depth": 16, "dropout": 0.0},
            dataset="cora",
            seeds=5,
        ),
        _cell(
            "R1",
            "mlp",
            0.75,
            6000,
            (*_arms_except("orthogonal"), *ESTIMATORS, *PUBLISHED),
            depth=10,
            width=128,
            activation="sigmoid",
            init="orthogonal",
        ),
        _cell(
            "R2",
            "mlp",
            0.70,
            1500,
            _arms_except("orthogonal"),
            depth=20,
            width=128,
            activation="sigmoid",
            init="orthogonal",
        ),
        _cell("R3", "mlp", 0.75, 1500, (*_arms_except(), *ESTIMATORS), depth=30, width=128),
        _cell("R4", "mlp", 0.75, 1000, _arms_except(), depth=100, width=128),
        _cell(
            "R5",
            "mlp",
            0.75,
            1500,
            (*HEALTHY, "batchnorm", "residual", "orthogonal", "lsuv"),
            depth=64,
            width=32,
            init="he",
        ),
        _heavy("R6", "cnn", 0.65, 600, (*HEAVY, "mi-label-free", "batchnorm", "lsuv"), depth=14, width=16),
        _cell("H1", "mlp", 0.80, 1000, (*HEALTHY, "mi-label-free", *ESTIMATORS), depth=30, width=128, init="he"),
        _cell("H2", "mlp", 0.80, 1000, HEALTHY, depth=30, width=128, init="he", batchnorm=True),
        _cell("H3", "mlp", 0.80, 1000, HEALTHY, depth=30, width=128, residual=True, batchnorm=True),
        _heavy("H4", "cnn", 0.75, 600, HEAVY, depth=14, width=16, batchnorm=True),
        _heavy("H5", "resnet18", 0.80, 300, HEAVY),
        _heavy("H6", "vit", 0.75, 600, (*HEAVY, "mi-label-free")),
        _cell("H7", "mlp", 0.80, 1000, (*HEALTHY, "mi-label-free"), depth=3, width=256),
        *_recipe(
            "P1", "cifar10", "vgg", 400, (*HEAVY, "mi-label-free", "lsuv"), model_options={"batchnorm": True}, **SGD
        ),
        *_recipe("P2", "cifar10", "resnet", 400, (*HEAVY, "mi-label-free"), **SGD),
        *_recipe(
            "P3",
            "cifar10",
            "vit",
            400,
            (*HEAVY, "mi-label-free", "muon", "lbe", *PUBLISHED),
            optimizer="adamw",
            weight_decay=0.05,
            augment="flip-crop",
            tuning_lrs=ADAMW_LRS,
        ),
        *_recipe(
            "P4",
            "shakespeare",
            "gpt",
            600,
            (*HEAVY, "mi-label-free"),
            model_options={"context": 64},
            batch_size=16,
            optimizer="adamw",
            weight_decay=0.1,
            betas=(0.9, 0.99),
            metric="loss",
            tuning_lrs=ADAMW_LRS,
        ),
        *_recipe(
            "P5",
            "fashion-mnist",
            "mlp",
            1500,
            (*HEALTHY, "batchnorm", "residual", "orthogonal", "lsuv"),
            model_options={"depth": 30, "width": 128, "init": "he"},
            seeds=10,
            optimizer="adamw",
            weight_decay=0.01,
        ),
        *_recipe(
            "P6",
            "diabetes",
            "mlp",
            300,
            (*HEALTHY, "batchnorm", "residual", "lsuv", "muon"),
            model_options={"depth": 6, "width": 64, "init": "he"},
            seeds=10,
            batch_size=64,
            optimizer="adamw",
            weight_decay=0.05,
            metric="loss",
        ),
        *_recipe(
            "P7",
            "fashion-mnist",
            "rnn",
            300,
            HEAVY,
            model_options={"depth": 20, "width": 32, "cell": "lstm"},
            batch_size=64,
            optimizer="adamw",
            weight_decay=0.01,
            tuning_lrs=ADAMW_LRS,
        ),
    ),
    arms=(
        *TERM,
        *VARIANTS,
        *BASELINES,
        *REMEDIES,
        "xavier",
        "pre-norm",
        "warm-up",
        "pairnorm",
        "muon",
        *ESTIMATORS,
        *PUBLISHED,
    ),
    first_seed=100,
    tuning=Tuning(lrs=(3e-4, 1e-3, 3e-3)),
)
