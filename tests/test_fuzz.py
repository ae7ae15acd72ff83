"""No batch, target or state of a network makes the term NaN, or the verdict untrue."""

from __future__ import annotations

import linecache
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import mireg
from mireg.term import FEWEST_ROWS

PLACES = 5
DTYPES = [torch.int64, torch.int32, torch.int16, torch.uint8, torch.bool, torch.float16, torch.float32, torch.float64]


class Heads(nn.Module):
    """Rows, or sequences (n, channels, positions) that are averaged before the head or not."""

    def __init__(self, kind: str, outputs: int) -> None:
        super().__init__()
        self.kind = kind
        wide: Any = nn.Linear if kind == "rows" else (lambda a, b: nn.Conv1d(a, b, 1))
        self.layers = nn.ModuleList([wide(4, 12), wide(12, 3), wide(3, 6), wide(6, 6)])
        self.head = nn.Linear(6, outputs) if kind != "positions" else wide(6, outputs)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).tanh()
        return self.head(x.mean(-1) if self.kind == "pooled" else x)


def target_of(
    generator: torch.Generator, shape: tuple[int, ...], classes: int, dtype: torch.dtype, missing: float
) -> Tensor:
    target = torch.randint(classes, shape, generator=generator)
    gone = torch.rand(shape, generator=generator) < missing
    if dtype.is_floating_point:
        return target.to(dtype).masked_fill(gone, torch.nan)
    return target.masked_fill(gone, -100).to(dtype)


def is_ours(error: BaseException) -> bool:
    """Whether an error was raised by a line of the library that says so, and not by a slip of it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    assert trace is not None
    file = trace.tb_frame.f_code.co_filename
    line = linecache.getline(file, trace.tb_lineno).strip()
    return Path(file).is_relative_to(Path(mireg.__file__).parent) and line.startswith("raise ")


@settings(max_examples=100)
@given(
    n=st.integers(1, 40),
    classes=st.sampled_from([1, 2, 3, 10, 40, 500]) | st.integers(1, 500),
    dtype=st.sampled_from(DTYPES),
    kind=st.sampled_from(["rows", "pooled", "positions"]),
    shape=st.sampled_from([None, (), (1,), (3,), (PLACES,), (2, PLACES), (PLACES, 2)]),
    outputs=st.sampled_from([1, 2, 3, 10]),
    missing=st.sampled_from([0.0, 0.0, 0.3, 0.9, 1.0]),
    frozen=st.integers(0, 5),
    training=st.sampled_from([True, True, True, False]),
    scale=st.sampled_from([1.0, 1.0, 0.0, 1e-6, 255.0]),
    seed=st.integers(0, 1000),
)
@example(8, 500, torch.int64, "rows", (), 10, 0.0, 0, True, 1.0, 0)
@example(40, 1, torch.int64, "rows", (), 10, 0.0, 0, True, 1.0, 0)
@example(40, 10, torch.int64, "positions", (PLACES,), 10, 1.0, 0, True, 1.0, 0)
@example(40, 10, torch.float32, "rows", (), 1, 1.0, 0, True, 1.0, 0)
@example(7, 10, torch.int64, "positions", (PLACES,), 10, 0.0, 2, True, 1.0, 0)
def test_any_batch(
    n: int,
    classes: int,
    dtype: torch.dtype,
    kind: str,
    shape: tuple[int, ...] | None,
    outputs: int,
    missing: float,
    frozen: int,
    training: bool,
    scale: float,
    seed: int,
) -> None:
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    network = Heads(kind, outputs)
    for layer in network.layers[:frozen] if frozen < 5 else [network]:
        layer.requires_grad_(False)
    x = scale * torch.randn(n, 4, *[PLACES] * (kind != "rows"), generator=generator)
    target = None if shape is None else target_of(generator, (n, *shape), classes, dtype, missing)
    model = mireg.wrap(network).train(training)
    trained = [p for p in network.parameters() if p.requires_grad]

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the MI term adds nothing")
        for _ in range(2):  # at a weight of its own, and relative to the task's gradient
            task = model(x).square().mean()
            try:
                term = model.mi_loss(target)
            except (ValueError, TypeError, RuntimeError) as error:
                if is_ours(error):
                    return
                raise
            assert term.isfinite()
            if not trained:
                assert not term.requires_grad
                break
            alone = torch.autograd.grad(task, trained, retain_graph=True, allow_unused=True)
            both = torch.autograd.grad(task + term, trained, allow_unused=True)
            assert all(g is None or g.isfinite().all() for g in both)
            moved = any(
                not torch.equal(a, b) for a, b in zip(alone, both, strict=True) if a is not None and b is not None
            )
            if training:
                active = model.verdict.startswith("active")
                assert active or not moved, model.verdict
                if scale and n >= FEWEST_ROWS:  # the gradient of equal rows is 0, whatever is asked of them
                    assert moved or not active, model.verdict
            else:
                assert not moved
    assert all(nats.isfinite() for nats in model.mi_terms().values())
    if n < FEWEST_ROWS and kind == "rows":
        assert not term.requires_grad


@pytest.mark.parametrize("rows", [0, 1])
def test_an_empty_batch_is_harmless(rows: int) -> None:
    model = mireg.wrap(Heads("rows", 3))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "the MI term adds nothing")
        task = model(torch.randn(rows, 4)).sum()
        (task + model.mi_loss(torch.zeros(rows, dtype=torch.long))).backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
