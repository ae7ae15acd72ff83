"""The registry of arms: each adds a term to the loss of a cell, or changes its network, weights or optimizer."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn

from mireg import estimators
from mireg.ablation.arms.baselines import DeepSupervision, LayerwiseBatchEntropy
from mireg.ablation.arms.loss_term import LossTerm, NoTerm, Term
from mireg.ablation.arms.lsuv import lsuv
from mireg.ablation.arms.own import OF_CHANGE, OwnTerm, parameters_of
from mireg.ablation.arms.reward import Reward
from mireg.ablation.errors import UserError, nearest
from mireg.ablation.user_code import blame, import_name
from mireg.regularizer import for_training


@dataclass(frozen=True)
class Arm:
    """One way to train the network of a cell; a user's own may change several things at once.

    Attributes:
        about: a description for users.
        term: creates the loss term from the network, the settings of the MI term and a few inputs.
        estimator: name of the MI term's estimator, if the arm has that term.
        model_options: options of the network; they override the cell's.
        lr_divisor: overrides the cell's.
        optimizer: overrides the cell's.
        make_optimizer: creates the optimizer from a list of ``parameters`` and an ``lr``, whatever the cell says.
        initialise: changes the network before training, given the first training samples; it may return another.
    """

    about: str
    term: Callable[[nn.Module, Term, Any], LossTerm] = NoTerm
    estimator: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    lr_divisor: float | None = None
    optimizer: str | None = None
    make_optimizer: Callable[..., torch.optim.Optimizer] | None = None
    initialise: Callable[[nn.Module, Any], nn.Module | None] | None = None


TERM = "mi"
"""The arm with the defaults of :func:`mireg.wrap`."""

BASELINE = "none"


def arm(name: str) -> Arm:
    """Look up an arm by name, or import one from a user's file, ``package.module:name``.

    Raises:
        UserError: if there is no such arm, or what is there is none.
    """
    if name in ARMS:
        return ARMS[name]
    if ":" not in name:
        choices = ", ".join([*ARMS, "package.module:Arm"])
        raise UserError(f"unknown arm {name!r}{nearest(name, ARMS)}: choose from {choices}")
    return own_arm(name)


def estimator_of(name: str) -> str | None:
    """The estimator of an arm's MI term; None for other arms, also for names that only a user's loop knows."""
    return ARMS[name].estimator if name in ARMS else None


def own_arm(name: str) -> Arm:
    """Import an arm: an :class:`Arm`, a :class:`LossTerm`, or a function or class whose parameters tell what it is."""
    found = import_name(name)
    if isinstance(found, Arm):
        return found
    about = (inspect.getdoc(found) or name).partition("\n")[0]
    if isinstance(found, type) and issubclass(found, LossTerm):
        return Arm(about, found)
    if not callable(found):
        raise UserError(f"{name} is no arm but {type(found).__name__}: give an Arm, a LossTerm, or a function")
    made = isinstance(found, type)
    try:
        wanted = parameters_of(name, found() if made else found)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: {blame(error)}") from error
    if "parameters" in wanted:
        return Arm(about, make_optimizer=found() if made else found)
    if set(wanted) <= set(OF_CHANGE):
        change = found() if made else found
        return Arm(about, initialise=lambda network, inputs: change(**_pick(wanted, network=network, inputs=inputs)))
    return Arm(about, partial(OwnTerm, name=name, make=found if made else lambda: found, wanted=wanted))


def _pick(names: Collection[str], **values: Any) -> dict[str, Any]:
    return {name: values[name] for name in names}


def _rewards(name: str, about: str, **how: Any) -> Arm:
    return Arm(about, partial(Reward, estimator=partial(for_training, name), **how), name)


def _of_estimators() -> dict[str, Arm]:
    arms = {}
    for name in estimators.names():
        if estimators.REGISTRY[name].is_differentiable:
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
