"""Variational information distillation: layers that tell what the layers of a teacher hold."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from mireg.ablation.arms.captured import Captured, LayerTerm, at_depth
from mireg.ablation.arms.loss_term import Term
from mireg.ablation.tasks import arguments
from mireg.layers import Taps
from mireg.rows import pool

SMALLEST = 1e-5  # variance, as published


class VID(LayerTerm):
    """``weight`` times the mean over pairs and units of ``1/2 ((t - mu(s))^2 / sigma^2 + log sigma^2)``.

    s is a hidden layer of the network, t the one at the same depth of a trained teacher. Learned with the network are
    mu, a perceptron with two hidden layers, and ``sigma^2 = softplus(a) + 1e-5``, a variance per unit of t. The value
    bounds minus the mutual information of s and t from above, up to a constant. Both layers are pooled to a row per
    sample (:func:`mireg.rows.pool`); the paper keeps the positions of maps.

    Args:
        teacher: a trained network that takes the same inputs; it is not trained, and stays in evaluation mode.

    Source: Ahn et al., Variational information distillation for knowledge transfer, CVPR 2019.
    """

    name = "the distillation"
    weight = 1.0  # as in the published comparisons
    variance = 5.0  # the first sigma^2, as published
    depths = (1 / 3, 2 / 3, 1.0)  # of the pairs, as fractions of the hidden layers

    def __init__(self, network: nn.Module, settings: Term, example: Any, *, teacher: nn.Module, **options: Any) -> None:
        teacher = copy.deepcopy(teacher).to(arguments(example)[0].device).requires_grad_(False)
        self._teacher = Captured(teacher, Taps(teacher))
        self._taught = self._teacher.observe(example)[1]
        super().__init__(network, settings, example, **options)
        self.model.register_forward_pre_hook(self._teach)

    def _teach(self, model: nn.Module, inputs: tuple[Any, ...]) -> None:
        """Show the teacher the same inputs in training."""
        if model.training and torch.is_grad_enabled():
            self._taught = self._teacher.observe(inputs)[1]

    def prepare(self, outputs: Any, layers: dict[str, Tensor]) -> nn.Module:
        theirs = self._taught
        pairs = {at_depth(list(layers), depth): at_depth(list(theirs), depth) for depth in self.depths}
        self._pairs = tuple(pairs.items())
        sizes = [(pool(layers[s][:1]).numel(), pool(theirs[t][:1]).numel()) for s, t in self._pairs]
        self._means = nn.ModuleList(
            nn.Sequential(nn.Linear(s, t), nn.ReLU(), nn.Linear(t, t), nn.ReLU(), nn.Linear(t, t)) for s, t in sizes
        )
        start = torch.tensor(self.variance - SMALLEST).expm1().log().item()
        self._spreads = nn.ParameterList(torch.full((t,), start) for _, t in sizes)
        return nn.ModuleList([self._means, self._spreads])

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        ours, theirs = self.model.pop(), self._taught
        losses = {}
        for (s, t), mean, spread in zip(self._pairs, self._means, self._spreads, strict=True):
            variance = softplus(spread) + SMALLEST
            distance = (pool(theirs[t]).float() - mean(pool(ours[s]).float())).square()
            losses[f"{s}, {t} of the teacher"] = (distance / variance + variance.log()).mean() / 2
        return self.weight * self.stacked(losses).mean()

    @property
    def verdict(self) -> str:
        return "distils " + ", ".join(f"{t} of the teacher into {s}" for s, t in self._pairs)
