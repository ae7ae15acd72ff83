"""Published loss terms that the MI term is compared with."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms.loss_term import LossTerm, Term
from mireg.ablation.tasks import arguments
from mireg.estimators.gram import standardise
from mireg.layers import INPUT, Taps
from mireg.rows import choose_rows, pool
from mireg.schedules import Linear


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


class LayerwiseBatchEntropy(LossTerm):
    """Layerwise batch entropy: penalises the distance of each layer's entropy from a learned value.

    The task's loss is multiplied by ``1 + mean_l beta (H_l - max(alpha_min, |alpha_l|))^2``, where H_l is the
    :func:`batch_entropy` of layer l and alpha_l is learned with the weights. If several processes share a batch,
    each uses its own part, like BatchNorm.

    Args:
        network: the network to train.
        settings: settings of the MI term; its layers are used, without the input.
        example: a few inputs, to find the layers.
        beta: weight; published values are between 0.1 and 0.2.
        alpha: initial alpha; published values are between 0.5 and 2.
        alpha_min: minimum desired entropy.

    Source: Peer et al., Improving the trainability of deep neural networks through layerwise batch-entropy
    regularization, TMLR 2022.
    """

    name = "the batch-entropy term"
    needs_loss = True

    def __init__(
        self,
        network: nn.Module,
        settings: Term,
        example: Any,
        *,
        beta: float = 0.1,
        alpha: float = 0.5,
        alpha_min: float = 0.2,
    ) -> None:
        self.network = network
        self.model = self._watched = _Watched(network, Taps(network, settings.layer_spec))
        _, layers = self._watched.look(example)
        # Part of the trained module, so that processes that share a batch keep it in sync.
        self._watched.alphas = self._alphas = nn.Parameter(
            torch.full((len(layers),), alpha, device=arguments(example)[0].device)
        )
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
    """A network that stores the outputs of its hidden layers in training."""

    def __init__(self, network: nn.Module, taps: Taps) -> None:
        super().__init__()
        self.network = network
        self.taps = taps
        self.active = True  # whether outputs are captured
        self._hidden: list[str] = []
        self._caught: dict[str, Tensor] = {}

    def look(self, example: Any) -> tuple[Tensor, list[Tensor]]:
        """The outputs of the network and of each hidden layer for a few inputs."""
        training = self.network.training
        self.network.eval()  # so that this pass changes no statistics and draws no random numbers
        with torch.no_grad():
            outputs, caught = self.taps.run(*arguments(example))
        self.network.train(training)
        self._hidden = [name for name in caught if name != INPUT]
        return outputs, [caught[name] for name in self._hidden]

    def forward(self, *inputs: Any) -> Any:
        if not (self.active and self.training and torch.is_grad_enabled()):
            return self.network(*inputs)
        result, self._caught = self.taps.run(*inputs)
        return result

    def take(self) -> dict[str, Tensor]:
        """Return and clear the hidden layers' outputs in the last training forward."""
        caught, self._caught = self._caught, {}
        return {name: caught[name] for name in self._hidden}

    def bare_copy(self) -> nn.Module:
        """A copy of the bare network, without hooks."""
        copied = copy.deepcopy(self)
        copied.taps.remove()
        return copied.network


class DeepSupervision(LossTerm):
    """Deep supervision: a linear head with the task's loss at every hidden layer, on standardised features.

    The mean of the heads' losses is added with a weight that falls from 1 to 0 over the same steps as
    the MI term's; the heads train with the network and are dropped afterwards.

    Args:
        network: the network to train.
        settings: settings of the MI term; its layers (without the input) and ``decay_steps`` are used.
        example: a few inputs, to find the widths of the layers and of the output.

    Source: Lee et al., Deeply-supervised nets, AISTATS 2015.
    """

    name = "deep supervision"

    def __init__(self, network: nn.Module, settings: Term, example: Any) -> None:
        self.network = network
        self.model = self._watched = _Watched(network, Taps(network, settings.layer_spec))
        outputs, layers = self._watched.look(example)
        widths = [layer.shape[1] if outputs.ndim > 2 else pool(layer, 1).numel() for layer in layers]
        with torch.random.fork_rng():  # so that every arm sees the same batches
            heads = (
                nn.Sequential(Standardise(), nn.Linear(width, outputs.shape[1 if outputs.ndim > 3 else -1]))
                for width in widths
            )
            self._heads = nn.ModuleList(heads).to(outputs.device)
        self._watched.heads = self._heads  # kept in sync like the alphas of the batch entropy
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
        losses = [self.loss(head(row), code) for head, row in zip(self._heads, rows, strict=True)]
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
        """Set the step; once the weight is 0, the layers are no longer captured."""
        self._step = step
        self._watched.active = self._weight(step) != 0

    def bare_copy(self) -> nn.Module:
        return self._watched.bare_copy()


class Standardise(nn.Module):
    """Scales rows (n, d) to mean 0 and mean variance 1 over the batch."""

    def forward(self, rows: Tensor) -> Tensor:
        scaled: Tensor = standardise(rows, 1e-5) * rows.shape[-1] ** 0.5
        return scaled
