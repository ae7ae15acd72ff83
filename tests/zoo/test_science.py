"""Networks that stand for functions, solve equations, and read graphs."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.zoo.adoption import STEPS, Run, compare, descend, fit


class GCN(nn.Module):
    """Two graph convolutions in plain torch: the rows are nodes."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(16, 24), nn.Linear(24, 24), nn.Linear(24, 4)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        x = (adjacency @ self.first(x)).relu()
        x = (adjacency @ self.second(x)).relu()
        return adjacency @ self.head(x)


def communities() -> tuple[Tensor, Tensor, Tensor]:
    """Noisy features of nodes in four communities, a normalised adjacency matrix, and the communities."""
    labels = torch.arange(200) % 4
    chance = torch.where(labels[:, None] == labels, 0.06, 0.01)
    links = (torch.rand(200, 200) < chance).float().triu(1)
    links = links + links.T + torch.eye(200)
    degree = links.sum(1).rsqrt()
    features = torch.randn(4, 16)[labels] + 2 * torch.randn(200, 16)
    return features, degree[:, None] * links * degree, labels


def gcn(run: Run) -> float:
    features, adjacency, labels = communities()
    known = torch.rand(200) < 0.5
    model = run.wrap(GCN())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3, weight_decay=5e-4)
    for _ in range(STEPS):
        loss = cross_entropy(model(features, adjacency)[known], labels[known])
        loss = loss + run.mi_loss(model, labels.where(known, -100))
        descend(optimizer, loss)
    return cross_entropy(model(features, adjacency)[known], labels[known]).item()


def test_gcn() -> None:
    outcome = compare(gcn)
    outcome.is_active()
    outcome.is_no_worse(solved=0.01)


def pinn(run: Run) -> float:
    """u'' = -pi^2 sin(pi x) on [-1, 1], 0 at both ends, whose solution is sin(pi x)."""
    model = run.wrap(
        nn.Sequential(
            nn.Linear(1, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 24), nn.Tanh(), nn.Linear(24, 1)
        )
    )
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    ends = torch.tensor([[-1.0], [1.0]])
    for _ in range(STEPS):
        x = (torch.rand(64, 1) * 2 - 1).requires_grad_()
        edge = model(ends).square().mean()
        u = model(x)
        (slope,) = torch.autograd.grad(u.sum(), x, create_graph=True)
        (bend,) = torch.autograd.grad(slope.sum(), x, create_graph=True)
        residual = bend + math.pi**2 * (math.pi * x).sin()
        loss = 0.1 * residual.square().mean() + 10 * edge + run.mi_loss(model)
        descend(optimizer, loss)
    x = torch.linspace(-1, 1, 101)[:, None]
    return mse_loss(model(x), (math.pi * x).sin()).item()


def test_pinn() -> None:
    outcome = compare(pinn)
    outcome.is_active("input", "1", "3", "5")
    outcome.is_no_worse(solved=0.01)


class Sine(nn.Module):
    def __init__(self, inputs: int, outputs: int, first: bool) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        bound = 1 / inputs if first else math.sqrt(6 / inputs) / 15
        nn.init.uniform_(self.linear.weight, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        return (15 * self.linear(x)).sin()


def siren(run: Run) -> float:
    """Fits an image from its coordinates."""
    grid = torch.linspace(-1, 1, 32)
    places = torch.cartesian_prod(grid, grid)
    values = (
        (8 * places[:, :1]).sin() * (6 * places[:, 1:]).cos() + (12 * places.square().sum(1, keepdim=True)).sin()
    ) / 2
    layers = Sine(2, 48, True), Sine(48, 48, False), Sine(48, 48, False), nn.Linear(48, 1)
    model = run.wrap(nn.Sequential(*layers), steps=400)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(450):
        index = torch.randint(len(places), (256,))
        loss = mse_loss(model(places[index]), values[index]) + run.mi_loss(model, values[index])
        descend(optimizer, loss)
    return mse_loss(model(places), values).item()


def test_siren() -> None:
    outcome = compare(siren)
    outcome.is_active("input", "0", "1", "2")
    outcome.is_no_worse(tolerance=1.2)  # a regression that every layer already serves


class DeepONet(nn.Module):
    """An operator: the trunk reads where, the branch reads the function."""

    def __init__(self) -> None:
        super().__init__()
        self.branch = nn.Sequential(nn.Linear(16, 32), nn.Tanh(), nn.Linear(32, 24))
        self.trunk = nn.Sequential(nn.Linear(1, 32), nn.Tanh(), nn.Linear(32, 24))

    def forward(self, function: Tensor, place: Tensor) -> Tensor:
        return (self.branch(function) * self.trunk(place)).sum(1, keepdim=True)


def operator(run: Run) -> float:
    """The integral of a random trigonometric function up to a point."""

    def samples(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        weights, places = torch.randn(rows, 3), torch.rand(rows, 1)
        k = torch.arange(1, 4) * 2
        function = (weights[:, None] * (k * torch.linspace(0, 1, 16)[:, None]).cos()).sum(-1)
        return function, places, (weights * (k * places).sin() / k).sum(1, keepdim=True)

    return fit(run, DeepONet(), samples, mse_loss, steps=STEPS, lr=3e-3)


def test_operator() -> None:
    compare(operator).is_no_worse()
