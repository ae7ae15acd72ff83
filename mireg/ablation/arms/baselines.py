"""What the MI term is compared with: other terms that were published."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.estimators.gram import standardise
from mireg.layers import INPUT, Taps
from mireg.rows import choose_rows, pool
from mireg.schedules import Linear


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
        self.model = self._watched = _Watched(network, Taps(network, settings.layer_spec))
        _, layers = self._watched.look(example)
        # A part of what is trained, so that processes that share a batch agree on it.
        self._watched.alphas = self._alphas = nn.Parameter(torch.full((len(layers),), alpha, device=example.device))
        self._beta, self._alpha_min = beta, alpha_min
        self._entropies: dict[str, Tensor] = {}

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        entropies = {name: batch_entropy(layer) for name, layer in self._watched.take().items()}
        self._entropies = {name: entropy.detach() for name, entropy in entropies.items()}
        wanted = self._alphas.abs().clamp_min(self._alpha_min)
        return task * self._beta * (torch.stack(list(entropies.values())) - wanted).square().mean()

    def parameters(self) -> Sequence[nn.Parameter]:
        return [self._alphas]

    def values(self) -> Mapping[str, Tensor]:
        return self._entropies

    def state_dict(self) -> dict[str, Any]:
        return {"alphas": self._alphas.detach()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        with torch.no_grad():
            self._alphas.copy_(state["alphas"])

    def bare_copy(self) -> nn.Module:
        return self._watched.bare_copy()


class _Watched(nn.Module):
    """A network that keeps the outputs of its hidden layers in training."""

    def __init__(self, network: nn.Module, taps: Taps) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        self.active = True  # whether anything is caught
        self._hidden: list[str] = []
        self._caught: dict[str, Tensor] = {}

    def look(self, example: Tensor) -> tuple[Tensor, list[Tensor]]:
        """What the network and each of its hidden layers put out for a few inputs."""
        training = self.network.training
        self.network.eval()  # so that the look at the layers leaves statistics and random numbers alone
        with torch.no_grad():
            outputs, caught = self.taps.run(example)
        self.network.train(training)
        self._hidden = [name for name in caught if name != INPUT]
        return outputs, [caught[name] for name in self._hidden]

    def forward(self, inputs: Tensor) -> Any:
        if not (self.active and self.training and torch.is_grad_enabled()):
            return self.network(inputs)
        result, self._caught = self.taps.run(inputs)
        return result

    def take(self) -> dict[str, Tensor]:
        """The hidden layers' outputs in the last training forward, once."""
        caught, self._caught = self._caught, {}
        return {name: caught[name] for name in self._hidden}

    def bare_copy(self) -> nn.Module:
        """A copy of the network alone, nothing attached to it."""
        copied = copy.deepcopy(self)
        copied.taps.remove()
        return copied.network


class DeepSupervision(LossTerm):
    """Deep supervision: a linear head with the task's loss at every hidden layer, on standardised features.

    The mean of the heads' losses is added with a weight that starts at 1 and falls to 0 over the
    steps over which the MI term's does; the heads train with the network and are dropped afterwards.

    Args:
        network: to train.
        settings: of the MI term, whose layers and ``decay_steps`` are taken, the input left out.
        example: a few inputs, which show how wide the layers are, and what the network puts out.

    Source: Lee et al., Deeply-supervised nets, AISTATS 2015.
    """

    name = "deep supervision"

    def __init__(self, network: nn.Module, settings: Term, example: Tensor) -> None:
        self.network = network
        self.model = self._watched = _Watched(network, Taps(network, settings.layer_spec))
        outputs, layers = self._watched.look(example)
        widths = [layer.shape[1] if outputs.ndim > 2 else pool(layer, 1).numel() for layer in layers]
        with torch.random.fork_rng():  # the batches of every arm are the same
            heads = (nn.Sequential(Standardise(), nn.Linear(width, outputs.shape[-1])) for width in widths)
            self._heads = nn.ModuleList(heads).to(example.device)
        self._watched.heads = self._heads  # as the alphas of the batch entropy
        self._weight = Linear(1.0, settings.decay_steps)
        self._samples = settings.samples
        self._start_at(0)
        self._losses: dict[str, Tensor] = {}

    def __call__(self, task: Tensor, target: Tensor | None) -> Tensor:
        weight = self._weight(self._step)
        self._start_at(self._step + 1)
        if not weight:
            return torch.zeros_like(task)
        caught = self._watched.take()
        if target is None:
            return torch.zeros_like(task)
        rows, code = choose_rows(list(caught.values()), target, self._samples, self._step)
        assert code is not None
        losses = [
            mse_loss(head(row), code) if code.is_floating_point() else cross_entropy(head(row), code)
            for head, row in zip(self._heads, rows, strict=True)
        ]
        self._losses = {name: loss.detach() for name, loss in zip(caught, losses, strict=True)}
        return weight * torch.stack(losses).mean()

    def parameters(self) -> Sequence[nn.Parameter]:
        return list(self._heads.parameters())

    def values(self) -> Mapping[str, Tensor]:
        return self._losses

    def state_dict(self) -> dict[str, Any]:
        return {"heads": self._heads.state_dict(), "step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._heads.load_state_dict(state["heads"])
        self._start_at(state["step"])

    def _start_at(self, step: int) -> None:
        """Once the weight is 0, the layers are caught no more."""
        self._step = step
        self._watched.active = self._weight(step) != 0

    def bare_copy(self) -> nn.Module:
        return self._watched.bare_copy()


class Standardise(nn.Module):
    """Rows (n, d) with mean 0 and mean variance 1 over the batch."""

    def forward(self, rows: Tensor) -> Tensor:
        scaled: Tensor = standardise(rows, 1e-5) * rows.shape[-1] ** 0.5
        return scaled
