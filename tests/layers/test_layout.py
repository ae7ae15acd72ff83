"""Where samples and channels are in an output."""

from __future__ import annotations

import torch

from mireg.layers import Layout


def test_layout() -> None:
    assert Layout(batch=1, channels=2).arrange(torch.zeros(7, 6, 5)).shape == (6, 5, 7)
    assert Layout(batch=0, channels=3).arrange(torch.zeros(6, 2, 3, 5)).shape == (6, 5, 2, 3)
    assert Layout(batch=0, channels=1).arrange(torch.zeros(6, 5)).shape == (6, 5)
