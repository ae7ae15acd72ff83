"""Layerwise batch entropy."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from mireg.ablation.arms.captured import LayerTerm


def batch_entropy(layer: Tensor) -> Tensor:
    """Mean over units of ``1/2 log(pi e sigma^2 + 1)``, with sigma the unit's standard deviation over the batch.

    Args:
        layer: (n, ...) outputs, n at least 2; in a map, every channel at every position is a unit.

    Returns:
        0-dim tensor, in nats, at least 0.

    Source: Peer et al., TMLR 2022, see :class:`LayerwiseBatchEntropy`.
    """
    variance = layer.flatten(1).float().var(0)
    return (math.pi * math.e * variance + 1).log().mean() / 2


class LayerwiseBatchEntropy(LayerTerm):
    """Penalises the distance of each layer's batch entropy from a learned value.

    The task's loss is multiplied by ``1 + mean_l beta (H_l - max(alpha_min, |alpha_l|))^2``, where H_l is the
    :func:`batch_entropy` of layer l and alpha_l is learned with the weights. If several processes share a batch,
    each uses its own part, like BatchNorm.

    Source: Peer et al., Improving the trainability of deep neural networks through layerwise batch-entropy
    regularization, TMLR 2022; the defaults are those of its network of 500 layers.
    """

    name = "the batch-entropy term"
    needs_loss = True
    beta = 0.1  # weight; published values are between 0.1 and 0.2
    alpha = 2.0  # initial; published values are between 0.5 and 2, and 2 with 500 layers
    alpha_min = 0.2  # least entropy that is wanted

    def prepare(self, outputs: Tensor, layers: dict[str, Tensor]) -> nn.Module:
        self._alphas = nn.Parameter(torch.full((len(layers),), self.alpha, device=outputs.device))
        return nn.ParameterList([self._alphas])

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        entropies = {name: batch_entropy(layer) for name, layer in self.model.pop().items()}
        wanted = self._alphas.abs().clamp_min(self.alpha_min)
        return task * self.beta * (self.stacked(entropies) - wanted).square().mean()
