"""Networks that make data: variational, adversarial, diffusion."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits as bce
from torch.nn.functional import mse_loss, silu

from tests.zoo.adoption import STEPS, Run, compare, descend, digits, pick


class VAE(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(64, 48), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(48, 6), nn.Linear(48, 6)
        self.decoder = nn.Sequential(nn.Linear(6, 48), nn.ReLU(), nn.Linear(48, 64))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        hidden = self.encoder(x)
        mean, log_variance = self.mean(hidden), self.log_variance(hidden)
        z = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(z), mean, log_variance


def elbo(model: nn.Module, x: Tensor) -> Tensor:
    decoded, mean, log_variance = model(x)
    divergence = -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(-1)
    return (bce(decoded, x, reduction="none").sum(-1) + divergence).mean()


def vae(run: Run) -> float:
    images = digits()[0].flatten(1)
    model = run.wrap(VAE())
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(STEPS):
        (x,) = pick(images)
        loss = elbo(model, x) + run.mi_loss(model)
        descend(optimizer, loss)
    with torch.no_grad():
        return elbo(model, images.repeat(4, 1)).item()


def test_vae() -> None:
    outcome = compare(vae)
    outcome.is_active()
    outcome.is_no_worse()


def ring(rows: int) -> Tensor:
    """Points (rows, 2) near a circle."""
    angle = torch.rand(rows) * 2 * math.pi
    return torch.stack([angle.cos(), angle.sin()], 1) + 0.05 * torch.randn(rows, 2)


def distance(made: Tensor) -> float:
    """Energy distance of points (n, 2) from the ring: 0 where they are alike."""
    real, again = ring(len(made)), ring(len(made))
    return (2 * torch.cdist(made, real) - torch.cdist(made, made.roll(1, 0)) - torch.cdist(real, again)).mean().item()


def perceptron(inputs: int, outputs: int, act: nn.Module) -> nn.Sequential:
    return nn.Sequential(nn.Linear(inputs, 32), act, nn.Linear(32, 32), act, nn.Linear(32, outputs))


def gan(run: Run) -> float:
    """Two optimizers; both networks are wrapped, the critic's term knows what is real."""
    generator = run.wrap(perceptron(4, 2, nn.ReLU()))
    critic = run.wrap(perceptron(2, 1, nn.LeakyReLU(0.2)))
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    of_critic = torch.optim.Adam(critic.parameters(), lr=2e-3, betas=(0.5, 0.9))
    real = torch.cat([torch.ones(64, 1), torch.zeros(64, 1)])
    for _ in range(STEPS):
        fake = generator(torch.randn(64, 4))
        loss = bce(critic(torch.cat([ring(64), fake.detach()])), real) + run.mi_loss(critic, real)
        descend(of_critic, loss)

        loss = bce(critic(fake), torch.ones(64, 1)) + run.mi_loss(generator)
        descend(of_generator, loss)
    with torch.no_grad():
        return distance(generator(torch.randn(512, 4)))


def test_gan() -> None:
    outcome = compare(gan, seeds=1)
    outcome.is_active()
    assert max(outcome.mi) < 0.5 * distance(torch.zeros(512, 2))


def wgan_gp(run: Run) -> float:
    """The gradient penalty of the critic needs a second backward pass through it."""
    generator = run.wrap(perceptron(4, 2, nn.ReLU()))
    critic = run.wrap(perceptron(2, 1, nn.LeakyReLU(0.2)))
    of_generator = torch.optim.Adam(generator.parameters(), lr=1e-3, betas=(0.5, 0.9))
    of_critic = torch.optim.Adam(critic.parameters(), lr=5e-3, betas=(0.5, 0.9))
    for step in range(600):
        real, fake = ring(64), generator(torch.randn(64, 4))
        mixed = torch.lerp(real, fake.detach(), torch.rand(64, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        loss = critic(fake.detach()).mean() - critic(real).mean() + (slope.norm(dim=1) - 1).square().mean()
        loss = loss + run.mi_loss(critic)
        descend(of_critic, loss)
        if step % 2 == 0:
            loss = -critic(fake).mean() + run.mi_loss(generator)
            descend(of_generator, loss)
    with torch.no_grad():
        return distance(generator(torch.randn(512, 4)))


def test_wgan_gp() -> None:
    outcome = compare(wgan_gp, seeds=1)
    outcome.is_active()
    assert max(outcome.mi) < 0.5 * distance(torch.zeros(512, 2))


def wgan_gp_penalty_last(run: Run) -> float:
    """The penalty's forward pass comes last, so that its layers, between real and fake, are those of the term."""
    critic = run.wrap(perceptron(2, 1, nn.Softplus()))
    optimizer = torch.optim.Adam(critic.parameters(), lr=2e-3)

    def loss_of(rows: int) -> Tensor:
        real, fake = ring(rows), torch.randn(rows, 2)
        loss = critic(fake).mean() - critic(real).mean()
        mixed = torch.lerp(real, fake, torch.rand(rows, 1)).requires_grad_()
        (slope,) = torch.autograd.grad(critic(mixed).sum(), mixed, create_graph=True)
        return loss + 10 * (slope.norm(dim=1) - 1).square().mean()

    for _ in range(STEPS):
        loss = loss_of(64) + run.mi_loss(critic)
        descend(optimizer, loss)
    return 1 + loss_of(2048).item()  # the optimum is negative


def test_wgan_gp_penalty_last() -> None:
    outcome = compare(wgan_gp_penalty_last, seeds=1)
    outcome.is_active()
    outcome.is_no_worse()


class TimedUNet(nn.Module):
    """A denoiser of 8 x 8 images, told the time by an embedding in every block."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 32), nn.SiLU(), nn.Linear(32, 8 + 16 + 8))
        self.first = nn.Conv2d(1, 8, 3, padding=1)
        self.down = nn.Conv2d(8, 16, 3, stride=2, padding=1)
        self.up = nn.ConvTranspose2d(16, 8, 2, stride=2)
        self.join = nn.Conv2d(16, 8, 3, padding=1)
        self.last = nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        angles = time[:, None] * torch.logspace(0, 2, 8)
        parts = self.time(torch.cat([angles.sin(), angles.cos()], 1))[:, :, None, None].split([8, 16, 8], 1)
        kept = silu(self.first(x) + parts[0])
        x = self.up(silu(self.down(kept) + parts[1]))
        return self.last(silu(self.join(torch.cat([kept, x], 1)) + parts[2]))


def diffusion(run: Run) -> float:
    images, _ = digits()

    def loss_of(rows: int, *, train: bool) -> Tensor:
        (x,) = pick(images, rows=rows)
        noise, time = torch.randn_like(x), torch.rand(rows)
        angle = (time * math.pi / 2)[:, None, None, None]
        loss = mse_loss(model(angle.cos() * (2 * x - 1) + angle.sin() * noise, time), noise)
        return loss + run.mi_loss(model, noise) if train else loss

    model = run.wrap(TimedUNet())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(STEPS):
        loss = loss_of(64, train=True)
        descend(optimizer, loss)
    with torch.no_grad():
        return loss_of(4096, train=False).item()


@pytest.mark.slow
def test_diffusion() -> None:
    outcome = compare(diffusion)
    outcome.is_active()
    outcome.is_no_worse(tolerance=1.1)  # so soon after the weight has fallen to 0
