"""What describe prints, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mireg
from tests.networks import NETWORKS


def test_prints_pairs_shapes_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = mireg.describe(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)),
        torch.randn(40, 3, 8, 8),
    )
    assert found.pairs == ["input→1", "1→4"]
    assert found.shapes == {"input": (40, 3, 8, 8), "1": (40, 8, 6, 6), "4": (40, 256)}
    assert found.units == {"input": 75, "1": 72, "4": 256}
    assert found.samples == 32
    assert found.term_ms > 0
    printed = capsys.readouterr().out
    assert "input→1  3×8×8 → 8×6×6  75, 72" in printed
    assert "kde on 32 samples:" in printed


def test_leaves_no_trace() -> None:
    net = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(), nn.Linear(8, 8), nn.Linear(8, 2)).eval()
    before = {key: value.clone() for key, value in net.state_dict().items()}
    random = torch.get_rng_state()
    mireg.describe(net, torch.randn(8, 4, generator=torch.Generator()))
    assert torch.equal(torch.get_rng_state(), random)
    assert not net.training
    assert all(torch.equal(before[key], value) for key, value in net.state_dict().items())
    assert all(p.grad is None for p in net.parameters())
    assert not any(m._forward_hooks for m in net.modules())


def test_keywords_and_a_wrapped_network() -> None:
    case = NETWORKS["gpt2"]
    model = mireg.wrap(case.make(), layers="transformer.h.*.mlp", estimator="cka", weight=0)
    found = mireg.describe(model, case.kwargs())
    assert found.estimator == "cka"
    assert found.pairs == ["transformer.h.0.mlp→transformer.h.1.mlp", "transformer.h.1.mlp→transformer.h.2.mlp"]
