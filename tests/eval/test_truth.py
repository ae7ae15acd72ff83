"""The tasks have the MI that they say, and the verdicts follow the rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from eval.truth import claims, contenders, distributions, tables, tasks

TASKS = {task.name: task for task in tasks.tasks()}


@pytest.mark.parametrize("task", TASKS.values(), ids=list(TASKS))
def test_samples_have_the_shape_and_repeat(task: tasks.Task) -> None:
    x, y = tasks.draw(task, 64, 3)
    assert (x.shape, y.shape) == ((64, task.sides[0]), (64, task.sides[1]))
    assert torch.isfinite(x).all()
    assert torch.isfinite(y).all()
    assert torch.equal(x, tasks.draw(task, 64, 3)[0])
    assert not torch.equal(x, tasks.draw(task, 64, 4)[0])


def test_maps_are_invertible() -> None:
    x = np.random.default_rng(0).standard_normal((50, 3))
    assert np.allclose(np.square(distributions.spiral(x)).sum(1), np.square(x).sum(1))
    assert np.allclose(np.sign(distributions.half_cube(x)) * np.abs(distributions.half_cube(x)) ** (2 / 3), x)


def test_closed_forms() -> None:
    assert distributions.bivariate_nats(0.5) == pytest.approx(0.143841, abs=1e-6)
    assert distributions.uniform_nats(0.5) == pytest.approx(0.5)
    assert TASKS["multinormal, two pairs ρ = 0.8, 25 per side"].true == pytest.approx(1.021651, abs=1e-6)


def test_a_run_leaves_rows_and_a_figure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        contenders, "CONTENDERS", [contenders.Contender("gaussian", "gaussian", {}, (contenders.SAMPLES,))]
    )
    rows = contenders.judge([task.name for task in tasks.tasks()].index("normal, ρ = 0.9"), 2)
    assert [row["n"] for row in rows] == [contenders.SAMPLES]
    assert abs(rows[0]["bias"]) < 0.05
    assert not rows[0]["recommended"]
    tables.draw_figure(rows).savefig(tmp_path / "figure.png")
    json.dumps(rows)


def test_a_bias_beyond_its_bound_fails_its_claim() -> None:
    def rows(bias: float) -> list[dict[str, Any]]:
        return [
            {
                "estimator": name,
                "task": "independent normals, 1 per side" if family == "independent" else "normal, ρ = 0.5",
                "family": family,
                "sides": (25, 25) if family == "multinormal" else (1, 1),
                "n": contenders.SAMPLES,
                "bias": bias if name == "kde" else 0.0,
                "true": 0.1,
                "recommended": name == "ksg",
            }
            for name in ("kde", "renyi", "gaussian", "binning", "infonce", "ksg", "hard_binning")
            for family in ("normal", "independent", "multinormal")
        ]

    assert all(claim["holds"] for claim in claims.verdicts(rows(0.04)))
    failed = [claim["claim"] for claim in claims.verdicts(rows(0.2)) if not claim["holds"]]
    assert failed
    assert all(claim.startswith("kde") for claim in failed)
