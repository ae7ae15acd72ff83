"""What a loop was given belongs to its code: other values, other results."""

from __future__ import annotations

from argparse import Namespace
from functools import partial
from typing import Any

import pytest
import torch

from mireg.ablation.fingerprint import fingerprint

SETTINGS: dict[str, Any] = {}


def logs(run: Any, value: Any) -> None:
    run.log(1, accuracy=value)


def of_argument(value: Any) -> Any:
    return partial(logs, value=value)


def of_closure(value: Any) -> Any:
    seen: list[int] = []

    def loop(run: Any) -> None:
        seen.append(run.seed)  # collected, so no setting
        logs(run, value)

    loop(Namespace(seed=0, log=lambda step, accuracy: None))
    return loop


def of_default(value: Any) -> Any:
    def loop(run: Any, value: Any = value) -> None:
        logs(run, value)

    return loop


def of_global(value: Any) -> Any:
    SETTINGS["value"] = value
    return looks_up


def looks_up(run: Any) -> None:
    logs(run, SETTINGS["value"])


class Holder:
    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self, run: Any) -> None:
        logs(run, self.value)


def of_method(value: Any) -> Any:
    return Holder(value).__call__


@pytest.mark.parametrize("made", [of_argument, of_closure, of_default, of_global, Holder, of_method])
@pytest.mark.parametrize(
    ("one", "other"),
    [(0.1, 0.9), ({"lr": [0.1]}, {"lr": [0.9]}), ({"a", "b"}, {"a"}), (Namespace(lr=0.1), Namespace(lr=0.9))],
)
def test_other_values_are_other_code(made: Any, one: Any, other: Any) -> None:
    first = fingerprint(made(one), ())
    assert fingerprint(made(one), ()) == first
    assert fingerprint(made(other), ()) != first


def test_of_what_is_not_plain_only_the_type_counts() -> None:
    first, second, third = (fingerprint(of_argument(x), ()) for x in (torch.ones(1), torch.zeros(2), object()))
    assert first == second != third


def test_what_a_loop_collects_is_no_setting() -> None:
    loop = of_closure(0.1)
    first = fingerprint(loop, ())
    loop(Namespace(seed=1, log=lambda step, accuracy: None))
    assert fingerprint(loop, ()) == first
