"""Distillation: layers that tell what a teacher's hold."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn.functional import softplus

from mireg.ablation.arms import Term
from mireg.ablation.arms.vid import VID
from tests.ablation.arms.small import X, added_by, hidden, loss_of, network, reached


def test_by_hand() -> None:
    term = VID(module := network(3), Term(), X[:2], teacher=(teacher := network(6)))
    wanted = []
    for pair, (s, t) in enumerate(((0, 1), (1, 3), (2, 5))):
        variance = softplus(term._spreads[pair]) + 1e-5
        assert variance.tolist() == pytest.approx([5.0] * 6, rel=1e-4)
        gap = hidden(teacher)[t] - term._means[pair](hidden(module)[s])
        wanted.append((gap.square() / variance + variance.log()).mean() / 2)
    assert added_by(term).item() == pytest.approx(torch.stack(wanted).mean().item(), rel=1e-5)
    assert term.verdict.startswith("distils layers.1 of the teacher into layers.0, ")


def test_the_network_learns_and_the_teacher_does_not() -> None:
    term = VID(module := network(3), Term(), X[:2], teacher=(teacher := network(6)))
    before = copy.deepcopy(teacher.state_dict())
    assert reached(term, module) == [True, True, True]
    trained = [*module.parameters(), *term.parameters()]
    assert len(trained) == len(list(term.model.parameters()))
    optimizer = torch.optim.Adam(trained, 0.01)
    losses = []
    for _ in range(100):
        optimizer.zero_grad()
        loss_of(term).backward()
        optimizer.step()
        losses.append(sum(value.item() for value in term.values().values()))
    assert losses[-1] < losses[0] - 0.2
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    assert not any(p.requires_grad is False for p in teacher.parameters())  # the user's own stays as it is


def test_a_killed_run_continues() -> None:
    term, other = (VID(network(3), Term(), X[:2], teacher=network(6)) for _ in range(2))
    loss_of(term).backward()
    torch.optim.SGD(term.parameters(), 0.1).step()
    other.load_state_dict(term.state_dict())
    assert added_by(other).item() == added_by(term).item()
