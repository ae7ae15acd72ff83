"""What describe prints, and that it leaves no trace."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import mireg
from tests.networks import NETWORKS


def test_prints_layers_verdict_and_cost(capsys: pytest.CaptureFixture[str]) -> None:
    found = mireg.describe(
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 16, 3), nn.ReLU(), nn.Flatten(), nn.Linear(256, 2)),
        torch.randn(40, 3, 8, 8),
    )
    assert found.shapes == {"input": (40, 3, 8, 8), "1": (40, 8, 6, 6), "4": (40, 256)}
    assert list(found.information) == ["input→1", "input→4", "input→target", "1→target", "4→target"]
    assert found.verdict == (
        "active: rewards information about the target and the input in 3 layers from 'input' to '4' (usable)"
    )
    assert found.step_ms > 0
    printed = capsys.readouterr().out
    assert "1      8×6×6" in printed
    assert found.verdict in printed
    assert "a step that uses the term takes" in printed


def test_a_target_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    x = torch.randn(64, 6)
    net = nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))
    found = mireg.describe(net, x, x[:, :2])
    assert found.information["input→target"] > mireg.describe(net, x).information["input→target"] + 0.3
    assert capsys.readouterr().out.count("active:") == 2


def test_a_network_without_a_chain_is_said_to_have_none(capsys: pytest.CaptureFixture[str]) -> None:
    found = mireg.describe(nn.Linear(4, 2), torch.randn(16, 4))
    assert found.verdict.startswith("inactive: ")
    assert (found.shapes, found.information, found.term_ms) == ({}, {}, 0.0)
    assert capsys.readouterr().out == found.verdict + "\n"


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
    model = mireg.wrap(case.make(), layers="transformer.h.*.mlp", estimator="cka", weight=1.0)
    batch = case.kwargs()
    found = mireg.describe(model, batch, batch["input_ids"])
    assert found.estimator == "cka"
    first, *rest = (f"transformer.h.{index}.mlp" for index in range(3))
    of_target = [f"{name}→target" for name in (first, *rest)]
    assert list(found.information) == [*(f"{first}→{name}" for name in rest), *of_target]


class Named(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.body(image)


def test_a_network_that_returns_its_loss_first() -> None:
    class WithLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.named = Named()

        def forward(self, image: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            out = self.named(image)
            return (out[:, 0] - labels).square().mean(), out

    found = mireg.describe(WithLoss(), {"image": torch.randn(16, 4), "labels": torch.zeros(16)})
    assert found.verdict.startswith("active")


def test_what_the_network_does_not_take_is_left_out() -> None:
    found = mireg.describe(Named(), {"image": torch.randn(16, 4), "label": torch.zeros(16)})
    assert list(found.shapes) == ["input", "body.1", "body.3"]
