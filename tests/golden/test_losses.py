"""Every estimator and every arm still trains as it did: the first losses are those that were committed.

Where the method was meant to change: ``make golden``, look at the difference, commit it with the change.
"""

from __future__ import annotations

import pytest
import torch

from tests.golden import losses

GOLDEN = losses.read()


def test_every_estimator_and_arm_has_golden_losses() -> None:
    assert list(GOLDEN["estimators"]) == losses.rewarded(), "run: make golden"
    assert list(GOLDEN["arms"]) == losses.arms(), "run: make golden"


@pytest.mark.parametrize("name", losses.rewarded())
def test_an_estimator_is_rewarded_as_before(name: str) -> None:
    found, golden = losses.losses_of_estimator(name), GOLDEN["estimators"].get(name)
    assert losses.close(found, golden), f"{found}, not {golden}; if meant, run: make golden"


@pytest.mark.parametrize("name", losses.arms())
def test_an_arm_trains_as_before(name: str) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    found, golden = losses.losses_of_arm(name), GOLDEN["arms"].get(name)
    assert losses.close(found, golden), f"{found}, not {golden}; if meant, run: make golden"


def test_what_moved_is_told_from_rounding() -> None:
    golden = {"loss": [2.0, None, 0.0]}
    assert losses.close({"loss": [2.0001, None, 1e-7]}, golden)
    for found in ({"loss": [2.001, None, 0.0]}, {"loss": [2.0, 0.0, 0.0]}, {"loss": [2.0, None]}, {}, None):
        assert not losses.close(found, golden)
