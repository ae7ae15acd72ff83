"""Classifiers and regressions of plain rows."""

from __future__ import annotations

import torch
from sklearn.datasets import load_diabetes
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from tests.zoo.adoption import LONG, STEPS, Run, classify, compare, descend, digits, pick


def mlp(run: Run) -> float:
    images, labels = digits()
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 10))
    model = run.wrap(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(STEPS):
        x, y = pick(images[:1400], labels[:1400])
        loss = cross_entropy(model(x), y) + run.mi_loss(model, y)
        descend(optimizer, loss)
    model.eval()
    return cross_entropy(model(images[1400:]), labels[1400:]).item()


def test_mlp() -> None:
    outcome = compare(mlp)
    outcome.is_active("input", "2", "4")
    outcome.is_no_worse()


def short_mlp(run: Run) -> float:
    """Ends while the term still has most of its weight."""
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.Tanh(), nn.Dropout(0.1), nn.Linear(64, 10))
    return classify(run, net, steps=120, lr=0.1, momentum=0.9)


def test_short_mlp() -> None:
    outcome = compare(short_mlp)
    outcome.is_active()
    outcome.is_no_worse()


def diabetes(run: Run) -> float:
    rows, values = (torch.as_tensor(each, dtype=torch.float32) for each in load_diabetes(return_X_y=True))
    rows, values = rows / rows.std(0), (values - values.mean()) / values.std()
    model = run.wrap(nn.Sequential(nn.Linear(10, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 1)))
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, weight_decay=1e-2)
    for _ in range(STEPS):
        x, y = pick(rows[:342], values[:342])
        loss = mse_loss(model(x).squeeze(1), y) + run.mi_loss(model, y)
        descend(optimizer, loss)
    return mse_loss(model(rows[342:]).squeeze(1), values[342:]).item()


def test_diabetes() -> None:
    outcome = compare(diabetes)
    outcome.is_active("input", "1", "3")
    outcome.is_no_worse()


class Experts(nn.Module):
    """A mixture of experts with a soft gate."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.gate = nn.Linear(32, 4)
        self.experts = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(4))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1)).relu()
        gates = self.gate(x).softmax(-1)
        mixed = torch.stack([expert(x) for expert in self.experts], 1)
        return self.head((gates[:, :, None] * mixed).sum(1))


class RoutedExperts(Experts):
    """Each row goes to one expert, which sees a part of the batch."""

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1)).relu()
        gates = self.gate(x).softmax(-1)
        best = gates.argmax(-1)
        mixed = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            rows = (best == number).nonzero().squeeze(1)
            if len(rows):
                mixed = mixed.index_add(0, rows, gates[rows, number, None] * expert(x[rows]))
        return self.head(x + mixed)


def mixture(net: type[nn.Module], run: Run) -> float:
    return classify(run, net(), steps=LONG)


def test_mixture_of_experts() -> None:
    def soft(run: Run) -> float:
        return mixture(Experts, run)

    outcome = compare(soft)
    outcome.is_active()
    outcome.is_no_worse()


def test_routed_experts() -> None:
    def routed(run: Run) -> float:
        return mixture(RoutedExperts, run)

    outcome = compare(routed, seeds=5)
    outcome.is_active()
    outcome.is_no_worse(tolerance=1.1)


class EarlyExits(nn.Module):
    """Every block has a head of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(64 if block == 0 else 32, 32), nn.ReLU()) for block in range(3)
        )
        self.heads = nn.ModuleList(nn.Linear(32, 10) for _ in range(3))

    def forward(self, x: Tensor) -> list[Tensor]:
        exits = []
        x = x.flatten(1)
        for block, head in zip(self.blocks, self.heads, strict=True):
            x = block(x)
            exits.append(head(x))
        return exits


def early_exits(run: Run) -> float:
    images, labels = digits()
    model = run.wrap(EarlyExits(), layers=["input", "blocks.?"])  # "auto" ends where the first exit parts
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        x, y = pick(images, labels)
        loss = torch.stack([cross_entropy(exit, y) for exit in model(x)]).sum() + run.mi_loss(model, y)
        descend(optimizer, loss)
    return sum(cross_entropy(exit, labels).item() for exit in model(images))


def test_early_exits() -> None:
    outcome = compare(early_exits)
    outcome.is_active("input", "blocks.0", "blocks.1", "blocks.2")
    outcome.is_no_worse()
