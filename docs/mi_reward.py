"""The method in plain loops: reward what successive layers keep, of the target and of the network's input.

python docs/mi_reward.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

INPUT_PART = 0.5  # of what layers keep of the input, beside the target's part
RIDGE, SHARED_NOISE, FLOOR, TINY = 0.1, 0.1, 1e-7, 1e-20
PROJECTIONS, SEED, CERTAIN, CLEAR, MEMORY, TURN_GROWS = 16, 5, 1.0, 0.05, 0.9, 25
FIRST_RATIO, SMALLEST_RATIO, LARGEST_RATIO, RISE, FALL = 0.1, 1e-3, 3.0, 0.1, 0.005


def usable_information(layer: Tensor, about: Tensor, noise: float) -> Tensor:
    """Half the log of the mean's squared error over ridge regression's, each row predicted from all others, in nats."""
    n, d = layer.shape
    mean = layer.mean(0)
    variance = (layer - mean).square().sum() / n + FLOOR * mean.square().sum() + noise * d + TINY
    z = (layer - mean) / variance.sqrt()
    centred = about - about.mean(0)
    inverse = torch.linalg.inv(z @ z.T + RIDGE * torch.eye(n).to(z))
    # The error of each row's prediction when the row is left out of the fit.
    left_out = inverse @ centred / (inverse.diagonal()[:, None] - 1 / (n * RIDGE))
    baseline = (centred / (1 - 1 / n)).square().sum() + TINY
    nats: Tensor = (baseline / (left_out.square().sum() + TINY)).log() / 2
    return nats


def projections(x: Tensor) -> Tensor:
    """Random projections of the input that stand for it, with mean 0 and variance 1."""
    generator = torch.Generator().manual_seed(SEED)
    directions = torch.randn(x.shape[1], PROJECTIONS, generator=generator, dtype=torch.float64)
    z: Tensor = x @ (directions / directions.norm(dim=0)).to(x)
    return (z - z.mean(0)) / z.std(0, correction=0)


def share_lost(kept: list[float]) -> list[float]:
    """How much less each layer has than the one before it that has most, as a share of that."""
    best = [max(kept[: max(1, i)]) for i in range(len(kept))]
    return [min(1.0, max(0.0, (most - own) / max(most, CERTAIN))) for own, most in zip(kept, best, strict=True)]


class Reward:
    """The term: ``-weight * m * mean over layers``, m the task's gradient over the term's at the last layer."""

    def __init__(self) -> None:
        self.m: float | None = None
        self.step = 0
        self.kept: list[float] = []  # running mean of each layer's information about the input
        self.best: float | None = None  # and of the most that a layer knows of the target

    def __call__(self, layers: list[Tensor], target: Tensor | None, task: Tensor, weight: float) -> Tensor:
        """The input comes first among the layers; it has its turn, too, but is not trained."""
        last = len(layers) - 1
        turns = max(1, min(1 + self.step // TURN_GROWS, last // 2))  # to save time, all but the last take turns
        used = [*range(self.step % turns, last, turns), last]
        # Noise that all layers share makes a faint signal worth less than a strong one.
        noise = SHARED_NOISE * min(layers[0].var(0, correction=0).mean().item(), 1.0)
        nats = {i: usable_information(layers[i], projections(layers[0]), noise) for i in used}
        self.kept = self.kept or [value.item() for value in nats.values()]
        for i, value in nats.items():
            self.kept[i] = MEMORY * self.kept[i] + (1 - MEMORY) * value.item()
        factor = [INPUT_PART * share**2 for share in share_lost(self.kept)]
        reward = {i: factor[i] * value for i, value in nats.items()}
        seen = 0.0
        if target is not None:
            code = one_hot(target.unique(return_inverse=True)[1]).to(layers[0])
            known = {i: usable_information(layers[i], code, noise) for i in used}
            now = max(value.item() for value in known.values())
            self.best = now if self.best is None else MEMORY * self.best + (1 - MEMORY) * now
            seen = min(1.0, max(0.0, self.best / CLEAR))  # where no layer knows of it, the estimate is noise
            reward = {i: value + seen * known[i] for i, value in reward.items()}
        total: Tensor = turns * sum(reward[i] for i in used if 0 < i < last) + reward[last]

        m = FIRST_RATIO if self.m is None else self.m
        of_last = factor[last] + seen
        if of_last > 0:  # else it has lost nothing, and its gradient says nothing
            (by_task,) = torch.autograd.grad(task, layers[-1], retain_graph=True)
            (by_last,) = torch.autograd.grad(reward[last] / of_last, layers[-1], retain_graph=True)
            ratio = min(max((by_task.norm() / by_last.norm()).item(), SMALLEST_RATIO), LARGEST_RATIO)
            before = ratio if self.m is None else self.m
            self.m = before + (RISE if ratio > before else FALL) * (ratio - before)  # takes effect at the next step
        self.step += 1
        return -weight * m * total / last


def outputs(network: nn.Sequential, x: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Logits, and the input and every activation before them."""
    layers = [x]
    for part in network[:-1]:
        x = part(x)
        if not isinstance(part, nn.Linear):
            layers.append(x)
    return network[-1](x), layers


def deep_mlp(depth: int = 10, width: int = 64) -> nn.Sequential:
    """A sigmoid network that plain training does not start."""
    parts: list[nn.Module] = []
    for layer in range(depth):
        parts += [nn.Linear(64 if layer == 0 else width, width), nn.Sigmoid()]
    network = nn.Sequential(*parts, nn.Linear(width, 10))
    for part in network:
        if isinstance(part, nn.Linear):
            nn.init.orthogonal_(part.weight)
            nn.init.zeros_(part.bias)
    return network


def train(weight: float, steps: int) -> float:
    """Test accuracy on the digits after that many steps."""
    from sklearn.datasets import load_digits

    torch.manual_seed(0)
    x, y = (torch.as_tensor(a) for a in load_digits(return_X_y=True))
    x = (x.float() - x.float().mean()) / x.float().std()
    network, reward, order = deep_mlp(), Reward(), torch.randperm(len(x))
    optimizer = torch.optim.Adam(network.parameters(), 1e-2 if weight else 1e-3)  # each at its best
    for step in range(steps):
        rows = order[torch.randint(1297, (64,))]
        logits, layers = outputs(network, x[rows])
        loss = cross_entropy(logits, y[rows])
        now = weight * max(0.0, 1 - step / 400)  # falls to 0
        if now:
            loss = loss + reward(layers, y[rows], loss, now)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    test = order[1297:]
    return float((network(x[test]).argmax(1) == y[test]).float().mean())


if __name__ == "__main__":
    torch.set_num_threads(1)  # small matrices
    for name, weight in (("without the term", 0.0), ("with the term", 4.0)):
        print(f"{name}: {train(weight, 400):.1%} of the test digits right after 400 steps")
