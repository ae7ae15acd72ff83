"""What the term changes inside networks, on data small enough for a test."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from eval import explain
from mireg.diagnostics import participation_ratio


def test_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(explain, "STEPS", (0, 2, 4))
    monkeypatch.setattr(explain, "BUDGET", 10)
    monkeypatch.setattr(explain, "EVERY", 5)
    files = {name: str(tmp_path / name) for name in ("found.json", "figure.png", "scatter.png")}
    words = f"explain --dataset digits --cells R1 H7 --stacks 4 --json {files['found.json']}"
    words += f" --figure {files['figure.png']} --scatter {files['scatter.png']}"
    monkeypatch.setattr(sys, "argv", words.split())
    assert explain.main() == 0
    found = json.loads((tmp_path / "found.json").read_text())
    rescued, well = found["cells"]["R1"], found["cells"]["H7"]
    for cell in (rescued, well):
        assert cell["mi"]["at"][0] == cell["none"]["at"][0] != cell["mi"]["at"][1] != cell["none"]["at"][1]
    assert [len(rescued["none"]["at"][0][panel]) for panel in explain.PANELS] == [11, 11, 11]
    assert min(rescued["none"]["at"][0]["nats"]) < 0.01 < well["none"]["at"][0]["nats"][-1]
    assert len(found["stacks"]) == 4
    assert all((tmp_path / name).stat().st_size > 5000 for name in ("figure.png", "scatter.png"))
    text = capsys.readouterr().out
    assert "| R1, mi | 4 |" in text
    assert "Spearman" in text


def test_a_network_that_starts_sooner_ranks_lower() -> None:
    stacks = [
        {"depth": depth, "last_nats": nats, "steps": steps}
        for depth, nats, steps in ((2, 2.0, 100), (3, 1.0, 300), (5, 0.1, 900), (4, 0.0, None))
    ]
    found = explain.correlation(stacks)
    assert found["spearman"] == pytest.approx(-1)
    assert found["spearman_of_depth"] == pytest.approx(0.8)


def test_participation_ratio() -> None:
    torch.manual_seed(0)
    directions = nn.init.orthogonal_(torch.empty(5, 40))
    for n in (20, 400):  # fewer samples than units, and more
        strong = torch.randn(n, 3) @ directions[:3]
        assert participation_ratio(strong) < 3.01
        assert participation_ratio(strong + 0.01 * torch.randn(n, 40)) == pytest.approx(
            participation_ratio(strong), rel=0.01
        )
    assert participation_ratio(torch.randn(400, 1) @ directions[:1] + 7) == pytest.approx(1)
