"""Every estimator and every arm still trains as it did: the first losses are those that were committed.

Where the method was meant to change: ``make golden``, look at the difference, commit it with the change.
"""

from __future__ import annotations

import pytest
import torch

from tests.golden import losses

GOLDEN = losses.read()
RELATIVE, ABSOLUTE = 1e-4, 1e-6
"""What another machine's sums may differ by."""


def test_every_estimator_and_arm_has_golden_losses() -> None:
    assert list(GOLDEN["estimators"]) == losses.rewarded(), "run: make golden"
    assert list(GOLDEN["arms"]) == losses.arms(), "run: make golden"


@pytest.mark.parametrize("name", losses.rewarded())
def test_an_estimator_is_rewarded_as_before(name: str) -> None:
    found = losses.losses_of_estimator(name)
    assert found == pytest.approx(GOLDEN["estimators"][name], rel=RELATIVE, abs=ABSOLUTE), "if meant: make golden"


@pytest.mark.parametrize("name", losses.arms())
def test_an_arm_trains_as_before(name: str) -> None:
    if name == "muon" and not hasattr(torch.optim, "Muon"):
        pytest.skip("this PyTorch has no Muon")
    found, golden = losses.losses_of_arm(name), GOLDEN["arms"][name]
    assert found["loss"] == pytest.approx(golden["loss"], rel=RELATIVE, abs=ABSOLUTE), "if meant: make golden"
    if golden["term_share"][0] is None:
        assert found["term_share"] == golden["term_share"]
    else:
        assert found["term_share"] == pytest.approx(golden["term_share"], rel=RELATIVE, abs=ABSOLUTE)
