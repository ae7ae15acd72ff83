"""What the MI term is compared with: another published term, and a control without dependence."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from mireg.ablation.terms import LossTerm, Term
from mireg.estimators import Estimator
from mireg.estimators.gram import noise_variance, spread
from mireg.layers import INPUT, Taps


def batch_entropy(layer: Tensor) -> Tensor:
    """Mean over the units of ``1/2 log(pi e sigma^2 + 1)``, sigma the unit's standard deviation over the batch.

    Args:
        layer: (n, ...) outputs, n at least 2; of a map, every channel at every position is a unit.

    Returns:
        0-dim tensor, in nats, at least 0.

    Source: Peer et al., TMLR 2022, see :class:`LayerwiseBatchEntropy`.
    """
    variance = layer.flatten(1).float().var(0)
    return (math.pi * math.e * variance + 1).log().mean() / 2


class LayerwiseBatchEntropy(LossTerm):
    """Layerwise batch entropy: the loss is larger the further the spread of a layer is from a learnt one.

    The task's loss is multiplied by ``1 + mean_l beta (H_l - max(alpha_min, |alpha_l|))^2``, H_l the
    :func:`batch_entropy` of layer l and alpha_l learnt with the weights. Where several processes share a batch,
    each goes by its own part, as BatchNorm does.

    Args:
        network: to train.
        settings: of the MI term, whose layers are taken, the input left out.
        example: a few inputs, which show how many layers there are.
        beta: weight, published between 0.1 and 0.2.
        alpha: at the start, published between 0.5 and 2.
        alpha_min: entropy that is wanted at least.

    Source: Peer et al., Improving the trainability of deep neural networks through layerwise batch-entropy
    regularization, TMLR 2022.
    """

    name = "the batch-entropy term"

    def __init__(
        self,
        network: nn.Module,
        settings: Term,
        example: Tensor,
        *,
        beta: float = 0.1,
        alpha: float = 0.5,
        alpha_min: float = 0.2,
    ) -> None:
        self.network = network
        self.model = self._watched = _Watched(network, Taps(network, settings.layer_spec), example, alpha)
        self._beta, self._alpha_min = beta, alpha_min
        self._entropies: dict[str, Tensor] = {}

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        entropies = {name: batch_entropy(layer) for name, layer in self._watched.take().items()}
        self._entropies = {name: entropy.detach() for name, entropy in entropies.items()}
        wanted = self._watched.alphas.abs().clamp_min(self._alpha_min)
        return task * self._beta * (torch.stack(list(entropies.values())) - wanted).square().mean()

    def parameters(self) -> Sequence[nn.Parameter]:
        return [self._watched.alphas]

    def values(self) -> Mapping[str, Tensor]:
        return self._entropies

    def state_dict(self) -> dict[str, Any]:
        return {"alphas": self._watched.alphas.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._watched.alphas.copy_(state["alphas"])

    def bare_copy(self) -> nn.Module:
        watched = copy.deepcopy(self._watched)
        watched.taps.remove()
        return watched.network


class _Watched(nn.Module):
    """A network that keeps the outputs of its hidden layers in training, and a parameter for each."""

    def __init__(self, network: nn.Module, taps: Taps, example: Tensor, alpha: float) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        training = network.training
        network.eval()  # so that the look at the layers leaves statistics and random numbers alone
        with torch.no_grad():
            taps.run(example)
        network.train(training)
        self._hidden = [name for name in taps.chain if name != INPUT]
        self._caught: dict[str, Tensor] = {}
        self.alphas = nn.Parameter(torch.full((len(self._hidden),), alpha, device=example.device))

    def forward(self, inputs: Tensor) -> Any:
        if not (self.training and torch.is_grad_enabled()):
            return self.network(inputs)
        result, self._caught = self.taps.run(inputs)
        return result

    def take(self) -> dict[str, Tensor]:
        """The hidden layers' outputs in the last training forward, once."""
        caught, self._caught = self._caught, {}
        return {name: caught[name] for name in self._hidden}


class Variance(Estimator):
    """Control: how far a layer's variance stands out of the noise, whatever the layer before it says.

    The reading of a pair is ``1/2 log(1 + v / floor)`` of its second layer alone, v the variance summed over
    units and the floor that of :func:`mireg.estimators.gram.standardise`.

    Args:
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        shared_noise: see :func:`mireg.estimators.gram.gram`.
    """

    name: ClassVar[str] = "variance"
    measures: ClassVar[str] = "variance"

    def __init__(self, noise_floor: float = 1e-5, shared_noise: float = 0.01) -> None:
        self.noise_floor = noise_floor
        self.shared_noise = shared_noise

    def estimate(self, layers: list[Tensor]) -> Tensor:
        noise = noise_variance(layers, self.shared_noise)
        return torch.stack([self._of(layer, noise) for layer in layers[1:]])

    def _of(self, layer: Tensor, noise: float | Tensor) -> Tensor:
        _, variance, floor = spread(layer, self.noise_floor, noise)
        return torch.log1p(variance / floor)[0, 0] / 2
