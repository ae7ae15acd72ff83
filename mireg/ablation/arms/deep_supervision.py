"""Auxiliary heads with the task's loss: at every layer, or at the one in the middle."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms.captured import LayerTerm, at_depth
from mireg.estimators.gram import standardise
from mireg.rows import choose_rows, pool
from mireg.schedules import Linear


class AuxiliaryHeads(LayerTerm):
    """Linear heads with the task's loss at hidden layers, on standardised features; they train with the network.

    Where every hidden layer has positions like the output, as in a language model, a head sees one position at a time;
    else it sees a layer pooled to a few positions, and gives the whole output.
    """

    def prepare(self, outputs: Tensor, layers: dict[str, Tensor]) -> nn.Module:
        self._names = self.chosen(list(layers))
        self._per_position = outputs.ndim > 2 and all(layer.ndim > 2 for layer in layers.values())
        chosen = [layers[name] for name in self._names]
        widths = [layer.shape[1] if self._per_position else pool(layer[:1]).numel() for layer in chosen]
        size = outputs.shape[1 if outputs.ndim > 3 else -1] if self._per_position else outputs[0].numel()
        self._heads = nn.ModuleList(nn.Sequential(Standardise(), nn.Linear(width, size)) for width in widths)
        return self._heads

    def chosen(self, names: Sequence[str]) -> Sequence[str]:
        """Which of the hidden layers have a head: all."""
        return names

    def heads_loss(self, target: Tensor) -> Tensor:
        """Mean of the heads' losses in the last training forward."""
        layers = self.model.pop()
        if target.is_floating_point() and not self._per_position:
            target = target.flatten(1) if target.ndim > 1 else target[:, None]
        rows = choose_rows([layers[name] for name in self._names], target, self.settings.samples, self._step)
        heads = zip(self._names, self._heads, rows.layers, strict=True)
        return self.stacked({name: self.loss(head(row), rows.target) for name, head, row in heads}).mean()


class DeepSupervision(AuxiliaryHeads):
    """Deep supervision: heads at every hidden layer, with a weight that falls from 1 to 0 over the MI term's steps.

    Source: Lee et al., Deeply-supervised nets, AISTATS 2015.
    """

    name = "deep supervision"

    def prepare(self, outputs: Tensor, layers: dict[str, Tensor]) -> nn.Module:
        self._weight = Linear(1.0, self.settings.decay_steps)
        self._start_at(0)
        return super().prepare(outputs, layers)

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        weight = self._weight(self._step)
        added = torch.zeros_like(task) if not weight or target is None else weight * self.heads_loss(target)
        self._start_at(self._step + 1)
        return added

    def load_state_dict(self, state: dict[str, Any]) -> None:
        super().load_state_dict(state)
        self._start_at(self._step)

    def _start_at(self, step: int) -> None:
        """Set the step; once the weight is 0, the layers are no longer captured."""
        self._step = step
        self.model.active = self._weight(step) != 0


class IntermediateLoss(AuxiliaryHeads):
    """Intermediate loss: a head at the middle layer, ``(1 - w) task + w intermediate`` all through training.

    The paper uses the network's own output layer and CTC; this head is one of its own, since widths may differ.

    Source: Lee & Watanabe, Intermediate loss regularization for CTC-based speech recognition (InterCTC), ICASSP 2021.
    """

    name = "the intermediate loss"
    needs_loss = True
    weight = 0.3  # w

    def chosen(self, names: Sequence[str]) -> Sequence[str]:
        return [at_depth(names, 0.5)]

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        if target is None:
            return torch.zeros_like(task)
        added = self.weight * (self.heads_loss(target) - task)
        self._step += 1
        return added


class Standardise(nn.Module):
    """Scales rows (n, d) to mean 0 and mean variance 1 over the batch."""

    def forward(self, rows: Tensor) -> Tensor:
        scaled: Tensor = standardise(rows, 1e-5) * rows.shape[-1] ** 0.5
        return scaled
