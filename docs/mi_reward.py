"""The idea of mireg in plain loops: reward every layer for what a linear probe can predict of the target from it.

python docs/mi_reward.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, one_hot

RIDGE, SHARED_NOISE, FLOOR, TINY = 0.1, 0.1, 1e-7, 1e-20


def usable_information(layer: Tensor, code: Tensor, noise: float) -> Tensor:
    """Half the log of the mean's squared error over ridge regression's, each row predicted from all others, in nats."""
    n, d = layer.shape
    mean = layer.mean(0)
    variance = (layer - mean).square().sum() / n + FLOOR * mean.square().sum() + noise * d + TINY
    z = (layer - mean) / variance.sqrt()
    centred = code - code.mean(0)
    inverse = torch.linalg.inv(z @ z.T + RIDGE * torch.eye(n))
    # The error of each row's prediction when the row is left out of the fit.
    left_out = inverse @ centred / (inverse.diagonal()[:, None] - 1 / (n * RIDGE))
    baseline = (centred / (1 - 1 / n)).square().sum() + TINY
    nats: Tensor = (baseline / (left_out.square().sum() + TINY)).log() / 2
    return nats


def information(layers: list[Tensor], target: Tensor) -> list[Tensor]:
    """Of each layer, the input first. Noise that all layers share makes a faint signal worth less than a strong one."""
    code = one_hot(target.unique(return_inverse=True)[1]).float()
    unit = min(layers[0].detach().var(0, correction=0).mean().item(), 1.0)
    return [usable_information(layer, code, unit * SHARED_NOISE) for layer in layers]


class Reward:
    """The term: ``-weight * m * mean over layers``, m the task's gradient over the term's at the last layer."""

    def __init__(self) -> None:
        self.m: float | None = None
        self.step = 0

    def __call__(self, layers: list[Tensor], target: Tensor, task: Tensor, weight: float) -> Tensor:
        *between, last = information(layers, target)[1:]  # the input is not trained
        turns = min(3, max(1, len(between)))  # to save time, layers take turns
        total = turns * sum(between[self.step % turns :: turns]) + last
        m = 1.0 if self.m is None else self.m
        (by_task,) = torch.autograd.grad(task, layers[-1], retain_graph=True)
        (by_last,) = torch.autograd.grad(last, layers[-1], retain_graph=True)
        ratio = min(max((by_task.norm() / by_last.norm()).item(), 1e-3), 3.0)
        self.step += 1
        if self.m is None:
            self.m = ratio
        self.m += (0.1 if ratio > self.m else 0.005) * (ratio - self.m)  # takes effect at the next step
        return -weight * m * total / (len(between) + 1)


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
