"""LayerSync: align an early layer with a later one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from mireg.ablation.arms.captured import LayerTerm
from mireg.ablation.errors import UserError
from mireg.rows import pool


class LayerSync(LayerTerm):
    """``-weight * mean cos(T_a, stopgrad T_b)``, over samples and positions, with layer b deeper than layer a.

    In the paper both layers have the same shape. Where they do not, both are pooled to a row per sample
    (:func:`mireg.rows.pool`), and a linear map that is learned with the network brings T_a to the width of T_b, as
    REPA does with the features of another network.

    Raises:
        UserError: if the network has fewer than 2 hidden layers.

    Source: Haghighi et al., LayerSync: self-aligning intermediate layers, ICLR 2026; for the linear map Yu et al.,
    Representation alignment for generation (REPA), ICLR 2025.
    """

    name = "LayerSync"
    weight = 0.2  # the paper's lambda
    early = 0.3  # depth of layer a, as a fraction of the hidden layers; the paper's largest network has 8 of 28
    late = 0.6  # depth of layer b; in the paper 16 of 28

    def prepare(self, outputs: Any, layers: dict[str, Tensor]) -> nn.Module:
        names = list(layers)
        if len(names) < 2:
            raise UserError(
                "arm 'layersync' does not apply: it aligns two hidden layers, and there is one; leave it out"
            )
        first = max(1, round(self.early * len(names)))
        self._early, self._late = names[first - 1], names[max(first + 1, round(self.late * len(names))) - 1]
        a, b = layers[self._early], layers[self._late]
        self._alike = a.shape == b.shape
        return nn.Identity() if self._alike else nn.Linear(pool(a[:1]).numel(), pool(b[:1]).numel())

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        layers = self.model.pop()
        a, b = layers[self._early].float(), layers[self._late].detach().float()
        if not self._alike:
            a, b = (pool(layer).flatten(1) for layer in (a, b))
        similarity = cosine_similarity(self.model.added(a), b, dim=1).mean()
        self._values = {f"cosine {self._early}, {self._late}": similarity.detach()}
        return -self.weight * similarity

    @property
    def verdict(self) -> str:
        mapped = "" if self._alike else ", through a learned linear map"
        return f"aligns {self._early} with {self._late}{mapped}"
