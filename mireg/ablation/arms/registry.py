"""The registry of arms: each adds a term to the loss of a cell, or changes its network, weights or optimizer."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from torch import Tensor, nn

from mireg import estimators
from mireg.ablation.arms.baselines import DeepSupervision, LayerwiseBatchEntropy
from mireg.ablation.arms.loss_term import LossTerm, NoTerm, Term
from mireg.ablation.arms.lsuv import lsuv
from mireg.ablation.arms.reward import Reward
from mireg.ablation.errors import UserError, nearest


@dataclass(frozen=True)
class Arm:
    """One way to train the network of a cell.

    Attributes:
        about: a description for users.
        term: creates the loss term from the network, the settings of the MI term and a few inputs.
        estimator: name of the MI term's estimator, if the arm has that term.
        model_options: options of the network; they override the cell's.
        lr_divisor: overrides the cell's.
        optimizer: overrides the cell's.
        initialise: changes the network before training, given the first training samples.
    """

    about: str
    term: Callable[[nn.Module, Term, Tensor], LossTerm] = NoTerm
    estimator: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    lr_divisor: float | None = None
    optimizer: str | None = None
    initialise: Callable[[nn.Module, Tensor], None] | None = None


TERM = "mi"
"""The arm with the defaults of :func:`mireg.wrap`."""

BASELINE = "none"


def arm(name: str) -> Arm:
    """Look up an arm by name.

    Raises:
        UserError: if there is no such arm.
    """
    if name not in ARMS:
        raise UserError(f"unknown arm {name!r}{nearest(name, ARMS)}: choose from {', '.join(ARMS)}")
    return ARMS[name]


def _rewards(name: str, about: str, **how: Any) -> Arm:
    return Arm(about, partial(Reward, estimator=partial(_estimator, name), **how), name)


def _estimator(name: str) -> estimators.Estimator:
    return estimators.get(name).for_training()


def _of_estimators() -> dict[str, Arm]:
    arms = {}
    for name in estimators.names():
        if estimators.REGISTRY[name].is_differentiable and not estimators.REGISTRY[name].is_learned:
            arms[f"mi-{name}"] = arms[name] = _rewards(name, f"the term with the {name} estimator")
    return arms


DEFAULT = "usable"
"""The term's default estimator."""

ARMS: dict[str, Arm] = {
    BASELINE: Arm("the network as it is"),
    TERM: _rewards(DEFAULT, "what mireg.wrap(model) and mi_loss(y) do"),
    "mi-label-free": _rewards(DEFAULT, "the term without a target, mi_loss()", sees_target=False),
    "target-shuffled": _rewards(DEFAULT, "control: the term sees the target's rows shuffled", shuffled=True),
    "pairs-shuffled": _rewards(
        DEFAULT, "control: mi_loss() on rows that do not belong together", sees_target=False, shuffled=True
    ),
    "last-layer": _rewards(DEFAULT, "the term at the last hidden layer alone", last=True),
    "deep-supervision": Arm("no term: a linear head with the task's loss at every layer", DeepSupervision),
    "lbe": Arm("layerwise batch entropy (Peer et al., 2022), another term for deep networks", LayerwiseBatchEntropy),
    "batchnorm": Arm("no term: BatchNorm in every layer", model_options={"batchnorm": True}),
    "residual": Arm("no term: residual connections", model_options={"residual": True}),
    "he": Arm("no term: He initialisation", model_options={"init": "he"}),
    "orthogonal": Arm("no term: orthogonal initialisation", model_options={"init": "orthogonal"}),
    "lsuv": Arm("no term: layer-sequential unit-variance initialisation (Mishkin & Matas, 2016)", initialise=lsuv),
    "muon": Arm("no term: Muon for the matrices of hidden layers, AdamW for the rest", optimizer="muon"),
    "layerwise-lr": Arm("no term: the learning rate divided by 2.6 per layer towards the input", lr_divisor=2.6),
    **_of_estimators(),
}
"""Arms by name; an estimator's name is short for the arm that rewards with it."""
