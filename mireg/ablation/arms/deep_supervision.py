"""Auxiliary heads with the task's loss at every layer."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms.captured import LayerTerm
from mireg.estimators.gram import standardise
from mireg.rows import choose_rows, pool
from mireg.schedules import Linear


class DeepSupervision(LayerTerm):
    """Linear heads with the task's loss at every hidden layer; their weight falls from 1 to 0 over the MI term's steps.

    The heads see standardised features, and train with the network. Where every hidden layer has positions like the
    output, as in a language model, a head sees one position at a time; else it sees a layer pooled to a few positions,
    and gives the whole output.

    Source: Lee et al., Deeply-supervised nets, AISTATS 2015.
    """

    name = "deep supervision"

    def prepare(self, outputs: Tensor, layers: dict[str, Tensor]) -> nn.Module:
        self._weight = Linear(1.0, self.settings.decay_steps)
        self._start_at(0)
        self._per_position = outputs.ndim > 2 and all(layer.ndim > 2 for layer in layers.values())
        widths = [layer.shape[1] if self._per_position else pool(layer[:1]).numel() for layer in layers.values()]
        size = outputs.shape[1 if outputs.ndim > 3 else -1] if self._per_position else outputs[0].numel()
        self._heads = nn.ModuleList(nn.Sequential(Standardise(), nn.Linear(width, size)) for width in widths)
        return self._heads

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        weight = self._weight(self._step)
        added = torch.zeros_like(task) if not weight or target is None else weight * self._heads_loss(target)
        self._start_at(self._step + 1)
        return added

    def _heads_loss(self, target: Tensor) -> Tensor:
        """Mean of the heads' losses in the last training forward."""
        layers = self.model.pop()
        if target.is_floating_point() and not self._per_position:
            target = target.flatten(1) if target.ndim > 1 else target[:, None]
        rows = choose_rows(list(layers.values()), target, self.settings.samples, self._step)
        heads = zip(layers, self._heads, rows.layers, strict=True)
        return self.stacked({name: self.loss(head(row), rows.target) for name, head, row in heads}).mean()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._start_at(self._step)

    def _start_at(self, step: int) -> None:
        """Set the step; once the weight is 0, the layers are no longer captured."""
        self._step = step
        self.model.active = self._weight(step) != 0


class Standardise(nn.Module):
    """Scales rows (n, d) to mean 0 and mean variance 1 over the batch."""

    def forward(self, rows: Tensor) -> Tensor:
        scaled: Tensor = standardise(rows, 1e-5) * rows.shape[-1] ** 0.5
        return scaled
