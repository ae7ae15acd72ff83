"""Networks of images: classes, pixels, pairs, and the images themselves."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import (
    binary_cross_entropy_with_logits,
    cross_entropy,
    interpolate,
    mse_loss,
    pairwise_distance,
)

from tests.zoo.adoption import STEPS, Run, classify, compare, descend, digits, fit, pick


def cnn(run: Run) -> float:
    net = nn.Sequential(
        *(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
        nn.Linear(16, 10),
    )
    return classify(run, net, lr=0.05, momentum=0.9)


def test_cnn() -> None:
    outcome = compare(cnn)
    outcome.is_active()
    assert len(outcome.layers) == 3
    outcome.is_no_worse()


class UNet(nn.Module):
    """Two scales, joined by concatenation."""

    def __init__(self) -> None:
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU())
        self.middle = nn.Sequential(nn.MaxPool2d(2), nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU())
        self.head = nn.Conv2d(8, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept = self.down(x)
        x = self.up(self.middle(kept))
        return self.head(self.join(torch.cat([kept, x], 1)))


def shapes(rows: int) -> tuple[Tensor, Tensor]:
    """Noisy images (rows, 1, 16, 16) of a square and a disc, and the class of each pixel."""
    grid = torch.arange(16.0)
    centre = torch.randint(3, 13, (rows, 4, 1, 1)).float()
    down, across = grid[:, None], grid[None, :]
    square = ((down - centre[:, 0]).abs() < 3) & ((across - centre[:, 1]).abs() < 3)
    disc = (down - centre[:, 2]) ** 2 + (across - centre[:, 3]) ** 2 < 9
    classes = torch.where(disc, 2, square.long())
    return (classes + 0.5 * torch.randn(rows, 16, 16))[:, None] / 2, classes


def unet(run: Run) -> float:
    model = run.wrap(UNet())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        x, y = shapes(16)
        loss = cross_entropy(model(x), y) + run.mi_loss(model, y)
        descend(optimizer, loss)
    x, y = shapes(256)
    return cross_entropy(model(x), y).item()


def test_unet() -> None:
    outcome = compare(unet)
    outcome.is_active()
    outcome.is_no_worse(tolerance=1.2)  # seeds differ by a factor of two


class AutoEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 8))
        self.decoder = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 64))

    def forward(self, x: Tensor) -> Tensor:
        return self.decoder(self.encoder(x))


def autoencoder(run: Run, *, with_target: bool = False) -> float:
    images = digits()[0].flatten(1)
    model = run.wrap(AutoEncoder())
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(1000):
        (x,) = pick(images)
        loss = mse_loss(model(x), x) + run.mi_loss(model, x if with_target else None)
        descend(optimizer, loss)
    return mse_loss(model(images), images).item()


def test_autoencoder() -> None:
    outcome = compare(autoencoder)
    outcome.is_active("input", "encoder.1", "encoder.2", "decoder.1")
    outcome.is_no_worse(tolerance=1.15)  # the term costs it a few percent


def autoencoder_of_its_input(run: Run) -> float:
    return autoencoder(run, with_target=True)


def test_autoencoder_with_its_input_as_target() -> None:
    outcome = compare(autoencoder_of_its_input)
    outcome.is_active()
    outcome.is_no_worse(tolerance=1.15)  # the term costs it a few percent


def superresolution(run: Run) -> float:
    """Values of a shape of their own, (n, 1, 8, 8), from images of half the size."""
    images, _ = digits()
    net = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.Conv2d(16, 4, 3, padding=1), nn.PixelShuffle(2))
    model = run.wrap(net)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        (x,) = pick(images, rows=32)
        loss = mse_loss(model(interpolate(x, scale_factor=0.5, mode="area")), x) + run.mi_loss(model, x)
        descend(optimizer, loss)
    return mse_loss(model(interpolate(images, scale_factor=0.5, mode="area")), images).item()


def test_superresolution() -> None:
    outcome = compare(superresolution)
    outcome.is_active()
    outcome.is_no_worse()


class Siamese(nn.Module):
    """One encoder, two images."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        self.scale = nn.Parameter(torch.tensor([1.0, 0.0]))

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.scale[1] - self.scale[0] * pairwise_distance(self.encoder(a), self.encoder(b))


def siamese(run: Run) -> float:
    images, labels = digits()

    def pairs(rows: int) -> tuple[Tensor, Tensor, Tensor]:
        (a, of_a), (b, of_b) = pick(images, labels, rows=rows), pick(images, labels, rows=rows)
        same = torch.rand(rows) < 0.4
        b = torch.where(same[:, None, None, None], a.roll(1, -1), b)
        return a, b, (same | (of_a == of_b)).float()

    return fit(run, Siamese(), pairs, binary_cross_entropy_with_logits, steps=STEPS, lr=2e-3)


def test_siamese() -> None:
    compare(siamese).is_no_worse()


def triplets(run: Run) -> float:
    """The encoder itself is wrapped, called three times a step; its term is that of the last call."""
    images, labels = digits()
    order = labels.argsort(stable=True)
    images, labels = images[order], labels[order]
    model = run.wrap(
        nn.Sequential(nn.Flatten(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
    )
    criterion = nn.TripletMarginLoss()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)

    def loss_of(rows: int) -> tuple[Tensor, Tensor]:
        index = torch.randint(len(images) - 20, (rows,))
        anchor = (index + torch.randint(300, 1400, (rows,))) % len(images)
        loss = criterion(model(images[anchor]), model(images[anchor - 1]), model(images[index]))
        return loss, labels[index]

    for _ in range(STEPS):
        loss, y = loss_of(64)
        loss = loss + run.mi_loss(model, y)
        descend(optimizer, loss)
    return loss_of(2048)[0].item()


def test_triplets() -> None:
    outcome = compare(triplets)
    outcome.is_active()
    outcome.is_no_worse(solved=0.02)
