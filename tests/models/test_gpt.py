"""The small language model."""

from __future__ import annotations

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

import models


def network(**options: int) -> torch.nn.Module:
    return models.build("gpt", {"depth": 2, "width": 16, "heads": 2, "context": 8, **options}, (8,), 11)


def test_a_position_does_not_see_those_after_it() -> None:
    model = network().eval()
    tokens = torch.randint(11, (3, 8))
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % 11
    before, after = model(tokens), model(changed)
    assert before.shape == (3, 8, 11)
    torch.testing.assert_close(before[:, :5], after[:, :5])
    assert not torch.allclose(before[:, 5:], after[:, 5:])


def test_the_head_is_the_embedding() -> None:
    model = network()
    assert model.head.weight is model.tokens.weight
    assert sum(name.endswith("tokens.weight") for name, _ in model.named_parameters()) == 1


def test_it_starts_at_a_uniform_guess_and_every_parameter_learns() -> None:
    model = network()
    tokens = torch.randint(11, (32, 9))
    loss = cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())
    assert loss.item() == pytest.approx(math.log(11), abs=0.05)
    loss.backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_its_size_is_that_of_the_formula() -> None:
    model = models.build("gpt", {}, (64,), 65)
    assert models.options("gpt") == {"depth": 4, "width": 128, "heads": 4, "context": 64}
    block = 12 * 128**2 + 9 * 128 + 4 * 128
    assert sum(p.numel() for p in model.parameters()) == 4 * block + (65 + 64) * 128 + 2 * 128


@pytest.mark.parametrize(
    ("options", "shape", "message"),
    [
        ({"heads": 3}, (8,), "heads=3: must divide width=16"),
        ({"context": 4}, (8,), "context=4: must be at least the 8 tokens of a sample"),
        ({}, (1, 8, 8), r"a gpt needs samples of shape \(tokens,\), not \(1, 8, 8\)"),
    ],
)
def test_bad_requests(options: dict[str, int], shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        models.build("gpt", {"depth": 2, "width": 16, "heads": 2, **options}, shape, 11)
