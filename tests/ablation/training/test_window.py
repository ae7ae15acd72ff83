"""The share of the term in a loss of 0."""

from __future__ import annotations

import torch

from mireg.ablation.training.loop import Window


def test_a_term_and_a_loss_of_zero_have_a_share() -> None:
    window = Window()
    window.add(torch.zeros(()), torch.zeros(()), 0.1)
    window.add(torch.ones(()), torch.ones(()), 0.1)
    assert window.summary()["term_share"] == 0.25
