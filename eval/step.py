"""Plain training, step by step, and diagnostics of one step, taken on a copy so that they do not affect the run."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mireg import diagnostics
from mireg.ablation.arms import LossTerm
from mireg.ablation.data import Dataset
from mireg.ablation.training.batches import Batches
from mireg.ablation.training.group import Group
from mireg.layers import Taps
from mireg.measure import measure

SAMPLED = 4
"""Number of measured layers, evenly spaced from the second to the last: the first has no layer below it."""


def training(
    term: LossTerm, data: Dataset, lr: float, seed: int, batch_size: int = 128
) -> Iterator[tuple[int, torch.optim.Optimizer]]:
    """Train a term's network forever with Adam; yield the number of steps done, and the optimizer, before each step."""
    optimizer = torch.optim.Adam([*term.network.parameters(), *term.parameters()], lr)
    alone = Group(next(term.network.parameters()).device)
    for done, (inputs, targets) in enumerate(Batches(data.train, batch_size, seed, alone)):
        yield done, optimizer
        loss = data.task.loss(term.model(inputs), targets)
        added = term.of_batch(loss, targets)
        optimizer.zero_grad()
        (loss if added is None else loss + added).backward()
        optimizer.step()


@torch.random.fork_rng()  # leaves the run's random state unchanged
def diagnose(
    term: LossTerm, optimizer: torch.optim.Optimizer, data: Dataset, batch_size: int, probe: int
) -> dict[str, float]:
    """Measure the effect of one more training step on the layers.

    The step includes the run's term and optimizer state and uses the first training
    samples; features are those of the first validation samples. Costs as much as 10 to 25 training steps.

    Args:
        term: the arm's term, with its network.
        optimizer: the run's optimizer.
        data: the data set.
        batch_size: batch size of the step.
        probe: number of validation samples.

    Returns:
        The diagnostics that are finite, by name and, for those of a layer, with its index from the input.
    """
    inputs, targets = data.train.batch(slice(0, batch_size))
    samples = data.validation.batch(slice(0, probe))[0]
    before = _bare_copy(term.network)
    stepped, step = copy.deepcopy((term, optimizer))
    task = data.task.loss(stepped.model(inputs), targets)
    added = stepped.of_batch(task, targets)
    loss = task if added is None else task + added
    step.zero_grad()
    loss.backward()
    step.step()
    after = _bare_copy(stepped.network)

    names = diagnostics.layer_parameters(before)
    sampled = np.unique(np.linspace(1, len(names) - 1, SAMPLED).astype(int)).tolist()
    old, new = dict(before.named_parameters()), dict(after.named_parameters())

    def batch_loss(parameters: diagnostics.Parameters) -> Tensor:
        return data.task.loss(functional_call(before, dict(parameters), (inputs,)), targets)

    shifts = diagnostics.covariate_shift(batch_loss, old, new, names, sampled)
    norms = diagnostics.gradient_norms(batch_loss(old), old, [names[index] for index in sampled])
    found = {}
    for index, (distance, cosine), norm in zip(sampled, shifts, norms, strict=True):
        found[f"covariate_shift_l2/layer_{index:03d}"] = distance
        found[f"covariate_shift_cosine/layer_{index:03d}"] = cosine
        found[f"gradient_norm/layer_{index:03d}"] = norm

    layers, moved = (_features(network, samples) for network in (before, after))
    for index in np.unique(np.linspace(1, len(layers) - 1, SAMPLED).astype(int)):
        # The input comes first, so these are the features that the layer with this index receives.
        was, now = list(layers.values())[index], list(moved.values())[index]
        found[f"feature_drift/layer_{index:03d}"] = diagnostics.feature_drift(was, now)
        found[f"alignment_drift/layer_{index:03d}"] = diagnostics.alignment_drift(was, now)
        found[f"effective_rank/layer_{index:03d}"] = diagnostics.effective_rank(was)

    before.eval()
    top = diagnostics.input_gradients(lambda x: before(x).amax(1), samples)
    found["gradients/mean_cosine_of_samples"] = diagnostics.mean_cosine(top)
    counts = [sum(old[name].numel() for name in layer) for layer in names[:-1]]
    pairs = measure(before, [samples])
    if len(pairs) == len(counts):  # exactly one weight between the layers of each pair, and the head after the last
        effective = [diagnostics.effective_parameters(n, pair.nats) for n, pair in zip(counts, pairs, strict=True)]
        found["effective_parameters/share"] = sum(effective) / sum(counts)
    return {tag: value for tag, value in found.items() if np.isfinite(value)}


def _bare_copy(network: nn.Module) -> nn.Module:
    """A copy of a network without the hooks of a term."""
    copied = copy.deepcopy(network)
    for module in copied.modules():
        module._forward_hooks.clear()
        module._forward_pre_hooks.clear()
    return copied


@torch.no_grad()
def _features(network: nn.Module, samples: Tensor) -> dict[str, Any]:
    """Outputs of the successive layers on the samples in training mode: normalised over this batch."""
    torch.manual_seed(0)  # the same dropout masks before and after
    taps = Taps(network)
    try:
        return taps.run(samples)[1]
    finally:
        taps.remove()
