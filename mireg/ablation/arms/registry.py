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
from mireg.ablation.arms.deep_supervision import DeepSupervision
from mireg.ablation.arms.dispersive import DispersiveLoss
from mireg.ablation.arms.layersync import LayerSync
from mireg.ablation.arms.lbe import LayerwiseBatchEntropy
from mireg.ablation.arms.loss_term import LossTerm, NoTerm, Term
from mireg.ablation.arms.lsuv import lsuv
from mireg.ablation.arms.own import OF_CHANGE, OwnTerm, parameters_of
from mireg.ablation.arms.reward import Reward
from mireg.ablation.arms.sigreg import SIGReg
from mireg.ablation.errors import UserError, nearest
from mireg.ablation.user_code import blame, import_name


@dataclass(frozen=True)
class Arm:
    """One way to train the network of a cell; a user's own may change several things at once.

    Attributes:
        about: a description for users.
        term: creates the loss term from the network, the settings of the MI term and a few inputs, on its device.
        estimator: name of the MI term's estimator, if the arm has that term.
        model_options: options of the network; they override the cell's.
        optimizer: overrides the cell's.
        warmup_steps: overrides the cell's, at most the whole budget.
        make_optimizer: creates the optimizer from a list of ``parameters`` and an ``lr``, whatever the cell says.
        initialise: changes the network before training, given the first training samples; it may return another.
    """

    about: str
    term: Callable[[nn.Module, Term, Any], LossTerm] = NoTerm
    estimator: str | None = None
    model_options: Mapping[str, Any] = field(default_factory=dict)
    optimizer: str | None = None
    warmup_steps: int | None = None
    make_optimizer: Callable[..., torch.optim.Optimizer] | None = None
    initialise: Callable[[nn.Module, Any], nn.Module | None] | None = None

    def initialised(self, network: nn.Module, example: Any) -> nn.Module:
        """The network as ``initialise`` leaves or returns it."""
        changed = self.initialise(network, example) if self.initialise else None
        return network if changed is None else changed


TERM = "mi"
"""The arm with the defaults of :func:`mireg.wrap`."""

BASELINE = "none"


def arm(name: str) -> Arm:
    """The arm of that name, or from a user's file, ``package.module:name``; a UserError if there is none."""
    if name in ARMS:
        return ARMS[name]
    if ":" not in name:
        choices = ", ".join([*ARMS, "package.module:Arm"])
        raise UserError(f"unknown arm {name!r}{nearest(name, ARMS)}: choose from {choices}")
    return arm_of(name, import_name(name))


def arm_of(name: str, found: Any) -> Arm:
    """An arm of a function or class: an :class:`Arm`, a :class:`LossTerm`, or one whose parameters tell what it is."""
    if isinstance(found, Arm):
        return found
    about = (inspect.getdoc(found) or name).partition("\n")[0]
    if isinstance(found, type) and issubclass(found, LossTerm):
        return Arm(about, found)
    if not callable(found):
        raise UserError(f"{name} is no arm but {type(found).__name__}: give an Arm, a LossTerm, or a function")
    make: Callable[[], Any] = found if isinstance(found, type) else lambda: found
    try:
        wanted = parameters_of(name, make())
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{name}: {blame(error)}") from error
    if "parameters" in wanted:
        return Arm(about, make_optimizer=make())
    if set(wanted) <= set(OF_CHANGE):
        return Arm(about, initialise=partial(_change, make(), name, wanted))
    return Arm(about, partial(OwnTerm, name=name, make=make, wanted=wanted))


def _change(change: Callable[..., Any], name: str, wanted: Collection[str], network: nn.Module, inputs: Any) -> Any:
    """What a user's function makes of a network."""
    values = {"network": network, "inputs": inputs}
    changed = change(**{key: values[key] for key in wanted})
    if changed is not None and not isinstance(changed, nn.Module):
        raise UserError(f"arm {name} returned {type(changed).__name__}: return a network, or None to keep this one")
    return changed


def _rewards(name: str, about: str, **how: Any) -> Arm:
    return Arm(about, partial(Reward, estimator=name, **how), name)


def _of_estimators() -> dict[str, Arm]:
    """For each estimator that can be rewarded but the default: without and with the target, and the control."""
    arms = {}
    for name, kind in estimators.REGISTRY.items():
        if name != DEFAULT and kind.is_differentiable and not kind.is_learned:
            arms[f"mi-{name}"] = _rewards(
                name, f"the {name} estimate of what layers keep of the input", sees_target=False
            )
            arms[f"mi-{name}-target"] = _rewards(name, f"the term with the {name} estimator, and the target")
            arms[f"{name}-shuffled"] = _rewards(
                name, f"control: mi-{name} with the input's rows shuffled", sees_target=False, shuffled=True
            )
    return arms


DEFAULT = "usable"
"""The term's default estimator."""

ARMS: dict[str, Arm] = {
    BASELINE: Arm("the network as it is"),
    TERM: _rewards(DEFAULT, "what mireg.wrap(model) and mi_loss(y) do"),
    "mi-label-free": _rewards(DEFAULT, "the term without a target, mi_loss()", sees_target=False),
    "target-shuffled": _rewards(DEFAULT, "control: mi with the target's and the input's rows shuffled", shuffled=True),
    "pairs-shuffled": _rewards(
        DEFAULT, "control: mi-label-free with the input's rows shuffled", sees_target=False, shuffled=True
    ),
    "last-layer": _rewards(DEFAULT, "the term at the last hidden layer alone", last=True),
    "deep-supervision": Arm("baseline: a linear head with the task's loss at every layer", DeepSupervision),
    "lbe": Arm("baseline: layerwise batch entropy (Peer et al., 2022)", LayerwiseBatchEntropy),
    "layersync": Arm("baseline: an early layer aligned with a later one (Haghighi et al., 2026)", LayerSync),
    "dispersive": Arm("baseline: the samples of an early layer pushed apart (Wang & He, 2025)", DispersiveLoss),
    "sigreg": Arm("baseline: layers made isotropic and normal (Balestriero & LeCun, 2025)", SIGReg),
    "batchnorm": Arm("no term: BatchNorm in every layer", model_options={"batchnorm": True}),
    "residual": Arm("no term: residual connections", model_options={"residual": True}),
    "pairnorm": Arm("no term: PairNorm in every layer of a graph network", model_options={"pairnorm": True}),
    "pre-norm": Arm("no term: normalisation before attention and MLP", model_options={"norm_first": True}),
    "warm-up": Arm("no term: the learning rate rises over the first 100 steps", warmup_steps=100),
    "he": Arm("no term: He initialisation", model_options={"init": "he"}),
    "xavier": Arm("no term: Xavier initialisation", model_options={"init": "xavier"}),
    "orthogonal": Arm("no term: orthogonal initialisation", model_options={"init": "orthogonal"}),
    "lsuv": Arm("no term: layer-sequential unit-variance initialisation (Mishkin & Matas, 2016)", initialise=lsuv),
    "muon": Arm("no term: Muon for the matrices of hidden layers, AdamW for the rest", optimizer="muon"),
    **_of_estimators(),
}
"""Arms by name."""
