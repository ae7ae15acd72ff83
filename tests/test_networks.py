"""The wrapper on every network of :mod:`tests.networks`."""

from __future__ import annotations

import copy
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import mireg
from mireg import kept as method
from mireg.layers import tensors_in
from tests.networks import NETWORKS, ROWS, Case

TARGET = torch.arange(ROWS) % 2


def run(model: nn.Module, case: Case) -> Any:
    """One forward pass; the batch and the dropout are the same every time."""
    torch.manual_seed(1)
    return model(*case.args(), **case.kwargs())


def task_gradients(model: nn.Module, case: Case) -> tuple[list[Tensor], list[Tensor | None]]:
    outputs = [t for t in tensors_in(run(model, case)) if t.is_floating_point()]
    loss: Any = sum(t.square().mean() for t in outputs if t.requires_grad)
    if isinstance(model, mireg.MIRegularized):
        loss = loss + model.mi_loss(TARGET)
    gradients = torch.autograd.grad(loss, list(model.parameters()), allow_unused=True)
    return [t.detach() for t in outputs], list(gradients)


def equal(ours: Sequence[Tensor | None], theirs: Sequence[Tensor | None]) -> bool:
    return all(
        (a is None and b is None) or (a is not None and b is not None and torch.equal(a, b))
        for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", NETWORKS)
def test_network(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        method, "share_lost", lambda kept, certain: torch.ones_like(kept)
    )  # or the factors would move with the layers
    case = NETWORKS[name]
    torch.manual_seed(0)
    network = case.make().train()
    buffers = copy.deepcopy(dict(network.named_buffers()))

    def reset() -> None:
        for key, buffer in network.named_buffers():
            buffer.copy_(buffers[key])

    bare_outputs, bare_gradients = task_gradients(network, case)
    reset()
    off = mireg.wrap(network, weight=0)
    outputs, gradients = task_gradients(off, case)
    assert equal(bare_outputs, outputs)
    assert equal(bare_gradients, gradients)
    off.unwrap()
    del bare_gradients, gradients

    model = mireg.wrap(network, weight=1.0)
    losses: list[float] = []
    for _ in range(3):  # observed, tapped, and after one step along the gradient
        reset()
        model.restart()  # the turn of the same layers, at the same weight
        result = run(model, case)
        assert equal(bare_outputs, [t for t in tensors_in(result) if t.is_floating_point()]) or len(losses) == 2
        refs = [weakref.ref(t) for key, t in model._captured.items() if key != "input"]
        assert all(t.shape[0] == ROWS for t in model._captured.values())
        term = model.mi_loss(TARGET)
        losses.append(term.item())
        if len(losses) == 2:
            move(network, term)
        del result, term
    assert len(model.mi_terms()) >= 1
    assert losses[0] == losses[1] or any(model.taps._points.values())
    assert losses[2] < losses[1]
    found = model.taps.chain
    assert [layer for layer in found if layer in case.layers] == list(case.layers)

    gc.collect()
    assert all(ref() is None for ref in refs)
    assert model.unwrap() is network
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())


@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradient_of_the_term(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(method.Kept, "seen", lambda self, nats: torch.ones(()))  # of a target that is not learned
    case = NETWORKS[name]
    torch.manual_seed(0)
    network = case.make().train()
    _, bare = task_gradients(network, case)
    model = mireg.wrap(network, weight=1.0)
    for _ in range(2):  # at a length of its own, and relative to the task's gradient
        _, gradients = task_gradients(model, case)
        found = [g for g in gradients if g is not None]
        assert all(torch.isfinite(g).all() for g in found)
        assert any(
            not torch.equal(a, b) for a, b in zip(gradients, bare, strict=True) if a is not None and b is not None
        )


def move(network: nn.Module, term: Tensor, length: float = 1e-3) -> None:
    """One short step of each parameter along its gradient."""
    parameters = list(network.parameters())
    gradients = torch.autograd.grad(term, parameters, allow_unused=True)
    norm = torch.stack([g.norm() for g in gradients if g is not None]).norm()
    assert norm > 0
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            if gradient is not None:
                parameter.sub_(length * gradient / norm)
