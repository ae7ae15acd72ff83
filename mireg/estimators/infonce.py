"""InfoNCE: a lower bound on MI from a learned critic."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import pad, silu

from mireg.estimators.base import NEXT, PairEstimator, as_matrices, check_finite, check_samples, in_full_precision
from mireg.estimators.gram import by_width, check_noise, compress, random_directions, random_order


class InfoNCE(PairEstimator):
    """Contrastive lower bound, ``log n + mean_i [s_ii - log sum_j exp s_ij]``, averaged over both directions.

    ``s_ij`` scores the pairing of row i of one layer with row j of the next by the inner product of
    two small networks, one pair of networks for each pair of layers. A layer of more than ``features``
    units is projected on that many random directions, so that the critic's size does not depend on the
    layers; the tails of its inputs are compressed (:func:`mireg.estimators.gram.compress`).

    The critic is built at the first estimate, from the number of layers. Untrained, or on the samples it was trained
    on, its estimate is meaningless: see :meth:`fit`. It measures, and cannot be rewarded in a loss.

    Args:
        features: inputs of the critic per layer.
        hidden: units of its hidden layer.
        embedding: length of the vectors whose inner product is the score.
        noise_floor: see :func:`mireg.estimators.gram.standardise`.
        seed: seed of the projections and of the critic's initial weights, which do not use the global
            random number generator.

    Source: van den Oord, Li & Vinyals, Representation learning with contrastive predictive coding,
    arXiv:1807.03748, 2018; Poole et al., On variational bounds of mutual information, ICML 2019.

    >>> x = torch.linspace(-1, 1, 512)[torch.randperm(512, generator=torch.Generator().manual_seed(0)), None]
    >>> critic = InfoNCE()
    >>> critic.fit(x[:256], x[:256], steps=200)
    >>> bool(critic(x[256:], x[256:]) > 0.5)
    True
    """

    name: ClassVar[str] = "infonce"
    is_learned: ClassVar[bool] = True

    def __init__(
        self, features: int = 64, hidden: int = 64, embedding: int = 32, noise_floor: float = 1e-5, seed: int = 0
    ) -> None:
        for option, value in (("features", features), ("hidden", hidden), ("embedding", embedding)):
            if value < 1:
                raise ValueError(f"{option}={value}: at least 1 is needed")
        check_noise(noise_floor=noise_floor)
        self.features = features
        self.hidden = hidden
        self.embedding = embedding
        self.noise_floor = noise_floor
        self.seed = seed
        self._critic = _Critic()

    def parameters(self) -> Iterator[nn.Parameter]:
        """The critic's parameters, uninitialised until the first estimate."""
        return self._critic.parameters()

    def state_dict(self) -> dict[str, Any]:
        """The critic's weights; empty before the first estimate."""
        return self._critic.state_dict() if self._critic.has_shape else {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state returned by :meth:`state_dict`."""
        if state:
            self._take_shape(len(state["weight"]), state["weight"])
            self._critic.load_state_dict(state)

    def estimate_pairs(self, layers: list[Tensor], partner: slice) -> Tensor:
        with in_full_precision(layers[0]):
            return self._bound(by_width(layers, self._inputs), partner)

    def fit(self, *layers: Tensor, steps: int = 400, batch: int = 256, learning_rate: float = 1e-2) -> None:
        """Train the critic on samples, to estimate on others.

        A fifth of the samples is held out, and each pair keeps the critic with the highest estimate on these samples
        during training: an overfitted critic gives negative estimates on new samples.

        Args:
            layers: L tensors (n, d_l), as for :meth:`successive`.
            steps: number of Adam steps; the learning rate falls to 0 along a cosine.
            batch: samples per step, at most n.
            learning_rate: learning rate at the first step.

        Raises:
            ValueError, TypeError: as for :meth:`successive`, and if ``batch`` is below 2.
        """
        check_samples(layers)
        check_finite(layers)
        if batch < 2:
            raise ValueError(f"batch={batch}: a critic contrasts at least 2 samples")
        generator = torch.Generator().manual_seed(self.seed)
        with torch.no_grad():
            inputs = by_width(as_matrices(layers), self._inputs)
        n = inputs.shape[1]
        order = random_order(n, generator).to(inputs.device)
        held, trained = (inputs[:, order[: n // 5]], inputs[:, order[n // 5 :]]) if n >= 10 else (inputs, inputs)
        self._take_shape(len(layers) - 1, inputs)
        optimizer = torch.optim.Adam(self.parameters(), lr=learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
        most = torch.full((len(layers) - 1,), -math.inf, device=inputs.device)
        kept = [weight.detach().clone() for weight in self.parameters()]
        for step in range(steps + 1):
            with torch.no_grad():
                if step % LOOK == 0 or step == steps:
                    read = self._bound(held)
                    better = read > most
                    most = torch.where(better, read, most)
                    for weight, best in zip(self.parameters(), kept, strict=True):
                        best[better] = weight[better]
            if step < steps:
                rows = torch.randint(trained.shape[1], (min(batch, n),), generator=generator, device="cpu")
                with torch.enable_grad():
                    loss = -self._bound(trained[:, rows.to(inputs.device)]).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                schedule.step()
        with torch.no_grad():
            for weight, best in zip(self.parameters(), kept, strict=True):
                weight.copy_(best)

    def _take_shape(self, pairs: int, like: Tensor) -> None:
        """Prepare the critic for this number of pairs, with the device and dtype of ``like``."""
        self._critic.take_shape(pairs, self, like)
        if (self._critic.weight.device, self._critic.weight.dtype) != (like.device, like.dtype):
            self._critic.to(like)

    def _inputs(self, stack: Tensor) -> Tensor:
        """The critic's inputs (g, n, features) for a stack (g, n, d)."""
        d, squares_over = stack.shape[-1], [-2]
        if d > self.features:
            stack = stack @ random_directions(stack, self.features, self.seed)
            squares_over = [-2, -1]  # rounding noise is the same in every direction
        z = compress(stack, self.noise_floor * stack.square().mean(squares_over, keepdim=True))
        return pad(z, (0, self.features - z.shape[-1]))

    def _bound(self, inputs: Tensor, partner: slice = NEXT) -> Tensor:
        """Estimates (L - 1,) from the critic's inputs (L, n, features)."""
        self._take_shape(len(inputs) - 1, inputs)
        first = inputs[:-1]
        scores = self._critic(first, inputs[partner].expand_as(first))
        matched = scores.diagonal(dim1=-2, dim2=-1).mean(-1)
        others = (torch.logsumexp(scores, -1) + torch.logsumexp(scores, -2)).mean(-1) / 2
        bound: Tensor = math.log(inputs.shape[1]) + matched - others
        return bound


class _Critic(nn.Module):
    """Scores of all pairs of rows, for P pairs of layers at once."""

    def __init__(self) -> None:
        super().__init__()
        self.weight: nn.Parameter = _shapeless()
        self.bias: nn.Parameter = _shapeless()
        self.out: nn.Parameter = _shapeless()
        self.skip: nn.Parameter = _shapeless()
        self.out_bias: nn.Parameter = _shapeless()

    @property
    def has_shape(self) -> bool:
        """Whether the weights exist, after the first estimate."""
        return not isinstance(self.weight, nn.UninitializedParameter)

    def take_shape(self, pairs: int, options: InfoNCE, like: Tensor) -> None:
        """Create the weights with the device and dtype of ``like``, unless they exist.

        Raises:
            ValueError: if they exist for a different number of pairs.
        """
        if self.has_shape:
            if len(self.weight) != pairs:
                raise ValueError(
                    f"this critic was made for {len(self.weight)} pairs of layers, not {pairs}: make a new InfoNCE"
                )
            return
        generator = torch.Generator().manual_seed(options.seed)
        features, hidden, embedding = options.features, options.hidden, options.embedding
        shapes = {
            "weight": (pairs, 2, features, hidden),
            "bias": (pairs, 2, 1, hidden),
            "out": (pairs, 2, hidden, embedding),
            "skip": (pairs, 2, features, embedding),
            "out_bias": (pairs, 2, 1, embedding),
        }
        with torch.no_grad():
            for name, shape in shapes.items():
                parameter = self.get_parameter(name)
                if isinstance(parameter, nn.UninitializedParameter):
                    parameter.materialize(shape, like.device, like.dtype)
                # A critic that scores all pairs equally estimates 0.
                size = SMALL if name in ("out", "skip", "out_bias") else 1.0
                drawn = torch.randn(shape, generator=generator, device="cpu")
                parameter.copy_(size * drawn / math.sqrt(shape[-2]))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """Scores (P, n, n) of inputs (P, n, features)."""
        # Copies, so that an optimizer step may change the weights before the backward pass through these scores.
        weight, bias, out, skip, out_bias = (parameter.clone().flatten(0, 1) for parameter in self.parameters())
        z = torch.stack([x, y], 1).flatten(0, 1)  # (2 P, n, features)
        hidden = silu(torch.baddbmm(bias, z, weight))
        embedded = torch.baddbmm(torch.baddbmm(out_bias, z, skip), hidden, out)
        of_x, of_y = embedded.unflatten(0, (-1, 2)).unbind(1)
        scores: Tensor = of_x @ of_y.mT / math.sqrt(of_x.shape[-1])
        return scores


LOOK = 20
"""Steps of a fit between evaluations on the held-out samples."""

SMALL = 0.1
"""Initial scale of the critic's last weights, relative to a variance-preserving initialisation."""


def _shapeless() -> nn.Parameter:
    parameter: nn.Parameter = nn.UninitializedParameter()  # type: ignore[assignment]
    return parameter
