"""Names, globs, types and predicates."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn

from mireg.layers.select import match


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class TestMatch:
    @pytest.mark.parametrize(
        ("spec", "names"),
        [
            ("head", ["head"]),
            ("blocks*", ["blocks.0", "blocks.1", "blocks.2"]),  # a ModuleList never runs
            (nn.Linear, ["blocks.0", "blocks.1", "blocks.2", "head.1"]),
            (lambda name, module: name.endswith(".1"), ["blocks.1", "head.1"]),
            (["head.0", "blocks.0"], ["blocks.0", "head.0"]),
        ],
    )
    def test_selects(self, spec: Any, names: list[str]) -> None:
        assert match(Blocks(), spec) == names

    @pytest.mark.parametrize("spec", ["block", nn.Conv2d, ["head", "nope*"]])
    def test_nothing_selected(self, spec: Any) -> None:
        with pytest.raises(ValueError, match=r"matches no module of Blocks: it has blocks\.0"):
            match(Blocks(), spec)

    def test_no_specification(self) -> None:
        with pytest.raises(TypeError, match="layers=3: give 'auto'"):
            match(Blocks(), 3)  # type: ignore[arg-type]
