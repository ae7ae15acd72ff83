"""Checks before any work: every network of a study is built, tried on a few samples and trained for a step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import nn

from mireg.ablation.arms import ARMS, arm
from mireg.ablation.data import Dataset, Loaded
from mireg.ablation.errors import UserError, check
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.tasks import arguments
from mireg.ablation.training.group import Group
from mireg.ablation.training.loop import Trainer
from mireg.ablation.training.recipe import hidden_matrices, make_optimizer
from mireg.ablation.training.score import check_outputs, evaluate
from mireg.ablation.user_code import blame

SAMPLES = 8
"""Number of samples for checking a network before any training."""

SAMPLES_FOR_TARGET = 500
"""Number of samples for checking that the untrained network has not reached the target."""


def preflight(runs: Sequence[RunSpec], trainer: Trainer, group: Group) -> None:
    """Raise a UserError if one of the runs could not begin; each data set is loaded once, and released again."""
    by_data: dict[object, list[RunSpec]] = {}
    for spec in runs:
        by_data.setdefault((spec.cell.dataset, spec.cell.context, spec.cell.task), []).append(spec)
    for specs in by_data.values():
        dataset = trainer.load(specs[0].cell)
        checked: list[object] = []
        for spec in specs:
            network = (spec.cell, arm(spec.arm).initialise, None if spec.arm in ARMS else spec.arm)
            if network not in checked:
                _check_recipe(spec.cell, dataset, group)
                _check_builds(spec, trainer, dataset)
                checked.append(network)


def _check_recipe(cell: Cell, dataset: Dataset, group: Group) -> None:
    """Check the settings that do not suit the data, or this machine."""
    task, inputs = dataset.task, dataset.train.batch(slice(0, 1))[0]
    if isinstance(dataset.train, Loaded):
        if group.size > 1:
            raise UserError(f"{cell.name}: {cell.dataset} gives batches, which torchrun's processes cannot share")
    else:
        size, remedy = min(cell.batch_size, len(dataset.train)), f"give a multiple of the {group.size} processes"
        check("batch_size", size, size % group.size == 0, f"{remedy} that share each batch")
    if cell.metric not in task.modes:
        choices = ", ".join(task.modes)
        raise UserError(f"{cell.name}: metric={cell.metric!r} does not apply to {task.name}: choose from {choices}")
    if cell.measured.mode != task.modes[cell.metric]:
        raise UserError(f"{cell.name}: {cell.metric} of {task.name} has mode {task.modes[cell.metric]!r}: give that")
    if cell.optimizer == "muon" and not hasattr(torch.optim, "Muon"):
        raise UserError(f"{cell.name}: optimizer='muon' needs PyTorch 2.9 or newer, and this is {torch.__version__}")
    if cell.augment != "none" and (isinstance(inputs, tuple) or len(dataset.input_shape) != 3):
        raise UserError(f"{cell.name}: augment={cell.augment!r} needs images, and a sample is {dataset.input_shape}")


def _check_builds(spec: RunSpec, trainer: Trainer, dataset: Dataset) -> None:
    """Build the network of a run and try it on a few samples, so that an invalid request fails before training."""
    cell = spec.cell
    goal, metric = cell.target, cell.measured
    few = replace(dataset, validation=dataset.validation.first(SAMPLES if goal is None else SAMPLES_FOR_TARGET))
    inputs, targets = few.validation.batch(slice(0, SAMPLES))
    with torch.random.fork_rng(devices=[]):
        try:
            network = arm(spec.arm).initialised(trainer.build(cell, dataset), inputs)
            _check_training(network, dataset, spec)
            with torch.no_grad():
                check_outputs(dataset.task, network.eval()(*arguments(inputs)), targets)
            value = evaluate(network, few, spec)[metric.validation]
            if not math.isfinite(value):
                raise ValueError(f"the {cell.metric} of the untrained network is {value}")
            if goal is not None and metric.reached(value, goal):
                better = "higher" if metric.mode == "max" else "lower"
                raise UserError(
                    f"{cell.name}: goal={goal!r}: the untrained network is at {cell.metric} {value:.4g} already; "
                    f"give a {better} one"
                )
        except UserError:
            raise
        except (ValueError, RuntimeError, MemoryError, OverflowError) as error:  # our own checks, or torch's on sizes
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            if isinstance(error, RuntimeError):
                tensors = [x for x in arguments(inputs) if isinstance(x, torch.Tensor)]
                kinds = [f"{str(x.dtype).removeprefix('torch.')} {tuple(x.shape)}" for x in tensors]
                reason += f" (inputs are {' and '.join(kinds)})"
            raise UserError(f"{cell.name}, arm {spec.arm}: {reason}") from error
        except (Exception, SystemExit) as error:
            raise UserError(f"{cell.name}, arm {spec.arm}: {blame(error)}") from error


def _check_training(network: nn.Module, dataset: Dataset, spec: RunSpec) -> None:
    """Do a forward and a backward pass in training mode, where some networks return more than in evaluation."""
    cell = spec.cell
    if cell.optimizer == "muon" and not hidden_matrices(network):
        raise UserError(
            f"{cell.name}, arm {spec.arm}: muon does not apply, {cell.model!r} has no matrix between its first and its "
            "last layer, and convolutions and recurrent weights are not muon's; leave it out"
        )
    inputs, targets = dataset.train.batch(slice(0, SAMPLES))
    network.train()
    if spec.arm in ARMS:
        model, term = network, None
    else:  # a user's own arm is tried, too
        term = arm(spec.arm).term(network, spec.term, inputs)
        term.loss, term.target, model = dataset.task.loss, dataset.task.target, term.model
        make_optimizer(network, cell, spec.arm, term.parameters())
    outputs = model(*arguments(inputs))
    check_outputs(dataset.task, outputs, targets)
    loss = dataset.task.loss(outputs, targets)
    if not loss.requires_grad:
        raise ValueError("the network has nothing to train: none of its parameters takes a gradient")
    added = term.of_batch(loss, targets) if term else None
    (loss if added is None else loss + added).backward()
