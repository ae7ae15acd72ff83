"""The target and the network's arguments in the batches of a loader."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from mireg.batches import TargetOf, inputs_of

X, Y = torch.zeros(4, 2), torch.tensor([0, 1, 1, 0])


@dataclass
class Sample:
    x: Tensor
    y: Tensor


class Pair(NamedTuple):
    image: Tensor
    target: Tensor


FOUND = {
    "pair": (X, Y),
    "list": [X, Y],
    "with an index": (X, Y, torch.arange(4)),
    "with weights": (X, Y, torch.rand(4)),
    "with paths": (X, Y, ["a", "b", "c", "d"]),
    "label": {"image": X, "label": Y},
    "labels": {"x": X, "labels": Y, "attention_mask": X},
    "targets": {"x": X, "targets": Y},
    "mask": {"image": X, "mask": Y},
    "label before mask": {"label": Y, "mask": X},
    "several inputs": ((X, X), Y),
    "a dict behind the input": (X, {"y": Y}),
    "dataclass": Sample(X, Y),
    "named tuple": Pair(X, Y),
    "object": SimpleNamespace(x=X, edge_index=X, y=Y),
    "array": (X, Y.numpy()),
    "numbers": {"x": X, "label": Y.tolist()},
}
MISSING: dict[str, Any] = {
    "two loaders": [[X, Y], [X, Y]],
    "two inputs": (X, X, Y),
    "other names": {"image": X, "segmentation": Y},
    "text": (X, ["cat", "dog", "cat", "cat"]),
    "objects": (X, [{"boxes": X}] * 4),
    "arrays of text": (X, np.array(["a"])),
}


@pytest.mark.parametrize("name", FOUND)
def test_found_and_said_once(name: str, caplog: pytest.LogCaptureFixture) -> None:
    find = TargetOf()
    with caplog.at_level(logging.INFO, "mireg"):
        for _ in range(2):
            target = find(FOUND[name])
            assert isinstance(target, Tensor)
            assert torch.equal(target, Y)
    assert len(caplog.records) == 1
    assert "the target is [" in caplog.text


@pytest.mark.parametrize("name", MISSING)
def test_missing_and_said_once(name: str, recwarn: pytest.WarningsRecorder) -> None:
    find = TargetOf()
    for _ in range(2):
        assert find(MISSING[name]) is None
    (warning,) = recwarn
    assert "no target found in a batch that is a " in str(warning.message)


def test_the_warning_names_what_the_batch_has() -> None:
    with pytest.warns(UserWarning, match="a dict with 'image', 'segmentation': .* by its key or index"):
        TargetOf()({"image": X, "segmentation": Y})
    with pytest.warns(UserWarning, match=r"a tuple of Tensor \(4, 2\), list: "):
        TargetOf()((X, ["a"]))


@pytest.mark.parametrize("batch", [X, Y])
def test_an_input_alone_has_no_target(batch: Tensor) -> None:
    assert TargetOf()(batch) is None


def test_batches_that_alternate() -> None:
    find = TargetOf()
    for batch in ((X, Y), {"x": X, "label": Y}, (X, Y)):
        assert find(batch) is Y


def test_named() -> None:
    assert TargetOf("age")({"y": X, "age": Y}) is Y
    assert TargetOf("x")(Sample(Y, X)) is Y
    assert TargetOf(2)((X, X, Y)) is Y
    assert TargetOf(lambda batch: batch[0])((Y, X)) is Y
    assert TargetOf(lambda batch: None)((X, Y)) is None
    with pytest.raises(KeyError, match="target 'age' is not in a batch that is a dict with 'x'"):
        TargetOf("age")({"x": X})


class Two(nn.Module):
    def forward(self, a: Tensor, b: Tensor, scale: float = 1.0) -> Tensor:
        return scale * (a + b)


class Anything(nn.Module):
    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


@pytest.mark.parametrize(
    ("module", "batch", "args", "kwargs"),
    [
        (nn.ReLU(), "x", ("x",), {}),
        (nn.ReLU(), ("x", "y"), ("x",), {}),
        (nn.ReLU(), [["x", "z"], "y"], (["x", "z"],), {}),
        (nn.ReLU(), {"input": "x", "label": "y"}, (), {"input": "x"}),
        (nn.ReLU(), {"image": "x", "label": "y"}, ({"image": "x", "label": "y"},), {}),
        (nn.LSTM(2, 2), ("x", "y"), ("x",), {}),
        (Two(), ("a", "b", "y"), ("a", "b"), {}),
        (Two(), [["a", "b"], "y"], ("a", "b"), {}),
        (Two(), ({"a": 1, "b": 2, "index": 3}, "y"), (), {"a": 1, "b": 2}),
        (Anything(), (("a", "b"), "y"), ("a", "b"), {}),
        (Anything(), {"a": 1, "labels": 2}, (), {"a": 1, "labels": 2}),
    ],
)
def test_arguments_of_a_network(module: nn.Module, batch: Any, args: Any, kwargs: Any) -> None:
    assert inputs_of(module, batch) == (args, kwargs)
