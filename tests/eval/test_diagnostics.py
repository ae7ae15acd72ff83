"""What the diagnostics show on deep networks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval import diagnostics
from mireg.ablation.data import load

DOCS = Path(__file__).parents[2] / "docs"
DIGITS = load("digits", Path("data"))


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    return {
        "shattering": diagnostics.shattering(list(diagnostics.NETWORKS), DIGITS, depth=50, width=64, seeds=2),
        "training": diagnostics.training(["plain"], DIGITS, depth=3, width=16, seeds=2, steps=20, lr=1e-2),
    }


def test_a_plain_deep_network_shatters_and_a_residual_one_does_not(found: dict[str, Any]) -> None:
    plain, residual, batchnorm = (found["shattering"][name] for name in ("plain", "residual", "batchnorm"))
    assert plain["half_lag"] < residual["half_lag"] / 2
    assert plain["autocorrelation"][16] < residual["autocorrelation"][16] - 0.2
    assert plain["mean_cosine"] < residual["mean_cosine"]
    # Normalisation without a way round the layers does not help: it makes noise of the gradient.
    assert abs(batchnorm["autocorrelation"][1]) < 0.1


def test_looks_linear_does_not_shatter(found: dict[str, Any]) -> None:
    assert found["shattering"]["looks-linear"]["half_lag"] > 2 * found["shattering"]["plain"]["half_lag"]


def test_training_is_followed_step_by_step(found: dict[str, Any]) -> None:
    for arm in found["training"]["plain"].values():
        assert arm["step"] == list(range(0, 21, 2))
        assert len({len(values) for key, values in arm.items() if key != "half_lag"}) == 1
        assert all(-1 <= cosine <= 1 for cosine in arm["covariate_shift_cosine"])
        assert all(1 <= rank <= 16 for rank in arm["effective_rank"])


def test_the_first_point_is_the_same_with_and_without_but_for_the_step(found: dict[str, Any]) -> None:
    none, mi = found["training"]["plain"].values()
    for key in ("validation_accuracy", "effective_rank", "gradient_norm_ratio"):
        assert none[key][0] == mi[key][0]
    assert none["alignment_drift"][0] != mi["alignment_drift"][0]


def test_table_and_figure_hold_every_network(found: dict[str, Any], tmp_path: Path) -> None:
    text = diagnostics.table(found)
    assert all(f"| {name} |" in text for name in diagnostics.NETWORKS)
    assert "| plain, mi |" in text
    diagnostics.draw(found).savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_the_page_shows_the_numbers_that_were_measured() -> None:
    page = (DOCS / "diagnostics.md").read_text()
    results = DOCS / "results" / "diagnostics"
    assert diagnostics.table(json.loads((results / "diagnostics.json").read_text())).split("\n\n")[0] in page
    for name in ("diagnostics", "rate-0.001"):
        assert diagnostics.table(json.loads((results / f"{name}.json").read_text())).split("\n\n")[1] in page
