"""What surrounds a run."""

from __future__ import annotations

import pytest
import torch

from mireg.ablation.training.denormals import flushed_denormals


def smallest_half() -> float:
    return (torch.tensor(torch.finfo(torch.float32).tiny) / 2).item()


@pytest.mark.parametrize("before", [False, True])
def test_denormals_are_flushed_and_the_state_restored(before: bool) -> None:
    if not torch.set_flush_denormal(before):
        pytest.skip("this CPU can't flush denormals")
    try:
        with flushed_denormals():
            assert smallest_half() == 0
        assert (smallest_half() == 0) is before
    finally:
        torch.set_flush_denormal(False)
