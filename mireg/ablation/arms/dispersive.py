"""Dispersive loss: push the samples of one layer apart."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from mireg.ablation.arms.captured import LayerTerm, at_depth


def dispersion(layer: Tensor, tau: float) -> Tensor:
    """``log mean_{i != j} exp(-|z_i - z_j|^2 / (tau d))``, at most 0, which it is if all rows are equal.

    Args:
        layer: (n, ...) outputs, n at least 2; flattened to d values per sample.
        tau: temperature.

    Returns:
        0-dim tensor.

    Source: Wang & He (2025), see :class:`DispersiveLoss`; the division by d is that of its published code, which also
    counts the pairs i = j.
    """
    z = layer.flatten(1).float()
    distances = torch.pdist(z).square() / (tau * z.shape[1])
    return torch.logsumexp(-distances, 0) - math.log(len(distances))


class DispersiveLoss(LayerTerm):
    """``weight * log mean_{i != j} exp(-|z_i - z_j|^2 / (tau d))`` of one hidden layer, a quarter into the network.

    Source: Wang & He, Diffuse and disperse: image generation with representation regularization, 2025
    (arXiv:2506.09027), the InfoNCE variant with squared distances, which it recommends.
    """

    name = "the dispersive loss"
    weight = 0.5  # the paper's lambda
    tau = 0.5
    depth = 0.25  # of the layer, as a fraction of the hidden layers

    def prepare(self, outputs: Any, layers: dict[str, Tensor]) -> None:
        self._layer = at_depth(list(layers), self.depth)

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        layer = self.model.pop()[self._layer]
        if len(layer) < 2:
            return torch.zeros_like(task)
        value = dispersion(layer, self.tau)
        self._values = {self._layer: value.detach()}
        return self.weight * value

    @property
    def verdict(self) -> str:
        return f"disperses {self._layer}"
