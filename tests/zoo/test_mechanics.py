"""What people do to a network and its training: adapters, reparametrised weights, checkpoints, averages, transforms."""

from __future__ import annotations

import io
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy
from torch.nn.utils import parametrizations, parametrize
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.checkpoint import checkpoint

from tests.zoo.adoption import LONG, STEPS, Run, classify, compare, digits, pick


def perceptron(depth: int = 3, around: Callable[[nn.Module], nn.Module] = lambda layer: layer) -> nn.Sequential:
    """Tanh layers, each made by ``around`` from a linear one."""
    blocks = [
        module for block in range(depth) for module in (around(nn.Linear(64 if block == 0 else 32, 32)), nn.Tanh())
    ]
    return nn.Sequential(nn.Flatten(), *blocks, nn.Linear(32, 10))


class Adapter(nn.Module):
    """A frozen linear layer and a low-rank correction of it."""

    def __init__(self, frozen: nn.Module) -> None:
        super().__init__()
        assert isinstance(frozen, nn.Linear)
        self.frozen = frozen.requires_grad_(False)
        self.down = nn.Parameter(torch.randn(4, frozen.in_features) / 8)
        self.up = nn.Parameter(torch.zeros(frozen.out_features, 4))

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + x @ self.down.T @ self.up.T


def adapters(run: Run) -> float:
    return classify(run, perceptron(around=Adapter), lr=3e-3)


def test_adapters() -> None:
    outcome = compare(adapters, seeds=1)
    outcome.is_active("input", "2", "4", "6")
    outcome.is_no_worse()


def frozen_backbone(run: Run) -> float:
    """Only the head is trained: no layer that the term sees depends on a trained parameter."""
    net = perceptron()
    net[:-1].requires_grad_(False)
    return classify(run, net, steps=100)


@pytest.mark.filterwarnings("ignore:the MI term adds nothing")
def test_frozen_backbone() -> None:
    outcome = compare(frozen_backbone, seeds=1)
    assert "no layer that it sees depends on a trained parameter" in outcome.verdict
    assert outcome.mi == outcome.bare


def weight_norm(run: Run) -> float:
    return classify(run, perceptron(around=parametrizations.weight_norm))


def test_weight_norm() -> None:
    outcome = compare(weight_norm, seeds=1)
    outcome.is_active("input", "2", "4", "6")
    outcome.is_no_worse()


def spectral_norm(run: Run) -> float:
    return classify(run, perceptron(around=parametrizations.spectral_norm))


def test_spectral_norm() -> None:
    outcome = compare(spectral_norm, seeds=1)
    outcome.is_active("input", "2", "4", "6")
    outcome.is_no_worse(tolerance=1.1)  # measured: 4% above bare on this seed


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return weight.triu() + weight.triu(1).T


def parametrized(run: Run) -> float:
    def symmetric(layer: nn.Module) -> nn.Module:
        assert isinstance(layer, nn.Linear)
        if layer.in_features == layer.out_features:
            parametrize.register_parametrization(layer, "weight", Symmetric())
        return layer

    return classify(run, perceptron(around=symmetric), steps=LONG)


def test_parametrized() -> None:
    outcome = compare(parametrized, seeds=1)
    outcome.is_active("input", "2", "4", "6")
    outcome.is_no_worse()


class Checkpointed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(64, 32)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(32, 32), nn.Dropout(0.05), nn.Tanh()) for _ in range(3))
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1)).tanh()
        for block in self.blocks:
            x = checkpoint(block, x, use_reentrant=False)
        return self.head(x)


def checkpointed(run: Run) -> float:
    return classify(run, Checkpointed())


def test_checkpointed() -> None:
    outcome = compare(checkpointed, seeds=1)
    outcome.is_active()
    assert outcome.layers[-3:] == ["blocks.0", "blocks.1", "blocks.2"]
    outcome.is_no_worse()


def averaged(run: Run) -> float:
    """Evaluates an exponential moving average of the weights, copied from the wrapped network."""
    images, labels = digits()
    averages: list[AveragedModel] = []

    def update(model: nn.Module) -> None:
        if not averages:
            averages.append(AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.95)))
        averages[0].update_parameters(model)

    classify(run, perceptron(), after=update)
    averages[0].eval()
    return cross_entropy(averages[0](images), labels).item()


def test_averaged() -> None:
    outcome = compare(averaged, seeds=1)
    outcome.is_active()
    outcome.is_no_worse()


def lbfgs(run: Run, **options: Any) -> float:
    """The closure runs several times a step: each run is a forward pass and a call of mi_loss.

    The term moves the objective that L-BFGS models, so that it is over after half of the steps.
    """
    images, labels = digits()
    images, labels = images[:400], labels[:400]
    model = run.wrap(perceptron(2), steps=40)
    optimizer = torch.optim.LBFGS(model.parameters(), max_iter=10, **options)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = cross_entropy(model(images), labels) + run.mi_loss(model, labels)
        loss.backward()
        return loss

    for _ in range(8):
        optimizer.step(closure)
    return cross_entropy(model(images), labels).item()


def test_lbfgs() -> None:
    outcome = compare(partial(lbfgs, lr=0.5), seeds=1)
    outcome.is_active("input", "2", "4")
    outcome.is_no_worse(solved=0.02)


def test_lbfgs_with_line_search() -> None:
    """A line search compares losses: the objective must not move while it looks."""
    outcome = compare(partial(lbfgs, line_search_fn="strong_wolfe"), seeds=1)
    outcome.is_active("input", "2", "4")
    outcome.is_no_worse(solved=0.02)


def through_functional_call(run: Run) -> float:
    """The weights are a dict of tensors, updated by hand."""
    images, labels = digits()
    model = run.wrap(perceptron(2))
    weights = {name: value.detach().clone().requires_grad_() for name, value in model.named_parameters()}
    for _ in range(STEPS):
        x, y = pick(images, labels)
        loss = cross_entropy(functional_call(model, weights, (x,)), y) + run.mi_loss(model, y)
        slopes = torch.autograd.grad(loss, list(weights.values()))
        weights = {
            name: (value - 0.1 * slope).detach().requires_grad_()
            for (name, value), slope in zip(weights.items(), slopes, strict=True)
        }
    with torch.no_grad():
        return cross_entropy(functional_call(model, weights, (images,)), labels).item()


def test_functional_call() -> None:
    outcome = compare(through_functional_call, seeds=1)
    outcome.is_active("input", "2", "4")
    outcome.is_no_worse()


def per_sample_gradients(run: Run) -> float:
    """Clipped gradients of single samples, by vmap over the bare call; the term comes from a call of its own."""
    images, labels = digits()
    model = run.wrap(perceptron(2))

    def loss_of(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        return cross_entropy(functional_call(model, weights, (x[None],)), y[None])

    each = vmap(grad(loss_of), in_dims=(None, 0, 0))
    for _ in range(40):
        x, y = pick(images, labels)
        weights = {name: value.detach() for name, value in model.named_parameters()}
        slopes = each(weights, x, y)
        length = torch.cat([slope.flatten(1) for slope in slopes.values()], 1).norm(dim=1)
        share = (1 / length).clamp(max=1)
        model(x)
        term = run.mi_loss(model, y)
        model.zero_grad()
        if isinstance(term, Tensor) and term.requires_grad:
            term.backward()
        with torch.no_grad():
            for name, value in model.named_parameters():
                slope = torch.tensordot(share, slopes[name], 1) / len(x)
                value -= 0.5 * (slope if value.grad is None else slope + value.grad)
    return cross_entropy(model(images), labels).item()


def test_per_sample_gradients() -> None:
    outcome = compare(per_sample_gradients, seeds=1)
    outcome.is_active("input", "2", "4")
    outcome.is_no_worse()


def traced(run: Run) -> float:
    """Traced with torch.jit after training: same outputs."""
    images, labels = digits()
    nets: list[Any] = []
    classify(run, perceptron(), steps=60, after=nets.append)
    with torch.no_grad():
        script = torch.jit.trace(nets[-1], images[:8])
        file = io.BytesIO()
        torch.jit.save(script, file)
        file.seek(0)
        loaded = torch.jit.load(file)
        assert torch.equal(loaded(images), nets[-1](images))
        return cross_entropy(loaded(images), labels).item()


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_traced() -> None:
    compare(traced, seeds=1).is_active()


class FakeQuantised(nn.Module):
    """Weights and activations are rounded to 8 bits in the forward pass, gradients pass straight through."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        assert isinstance(layer, nn.Linear)
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        weight = self.layer.weight
        scale = float(weight.detach().abs().max()) / 127
        rounded = torch.fake_quantize_per_tensor_affine(weight, scale, 0, -128, 127)
        out = nn.functional.linear(x, rounded, self.layer.bias)
        scale = float(out.detach().abs().max()) / 127
        return torch.fake_quantize_per_tensor_affine(out, scale, 0, -128, 127)


def quantisation_aware(run: Run) -> float:
    return classify(run, perceptron(around=FakeQuantised))


def test_quantisation_aware() -> None:
    outcome = compare(quantisation_aware, seeds=1)
    outcome.is_active("input", "2", "4", "6")
    outcome.is_no_worse()


def accumulated(run: Run) -> float:
    """Gradients of two small batches add up to a step; a cosine rate, clipping, autocast."""
    images, labels = digits()
    model = run.wrap(perceptron())
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    rate = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 300)
    for _ in range(300):
        for _ in range(2):
            x, y = pick(images, labels, rows=16)
            with torch.autocast("cpu", torch.bfloat16):
                loss = cross_entropy(model(x), y)
            ((loss + run.mi_loss(model, y)) / 2).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        rate.step()
    return cross_entropy(model(images), labels).item()


def test_accumulated() -> None:
    outcome = compare(accumulated, seeds=1)
    outcome.is_active()
    outcome.is_no_worse()
