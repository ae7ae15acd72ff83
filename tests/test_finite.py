"""Entries that are not finite are found without waiting."""

from __future__ import annotations

import pickle
import warnings

import pytest
import torch

from mireg.finite import FiniteWatch


def test_on_the_cpu_at_once() -> None:
    watch = FiniteWatch()
    with pytest.warns(RuntimeWarning, match="at step 7 or just before, in b, d: "):
        watch(torch.tensor([1.0, torch.nan, 2.0, -torch.inf]), "abcd", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        watch(torch.ones(3), "abc", 8)
    with pytest.warns(RuntimeWarning, match="in a: "):
        pickle.loads(pickle.dumps(watch))(torch.tensor([torch.inf]), "a", 9)
