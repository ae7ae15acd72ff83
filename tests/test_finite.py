"""Entries that are not finite are found without waiting."""

from __future__ import annotations

import pickle

import torch

from mireg.finite import FiniteWatch


def test_on_the_cpu_at_once() -> None:
    watch = FiniteWatch()
    assert watch(torch.tensor([1.0, torch.nan, 2.0, -torch.inf]), "abcd") == ["b", "d"]
    assert watch(torch.ones(3), "abc") == []
    assert pickle.loads(pickle.dumps(watch))(torch.tensor([torch.inf]), "a") == ["a"]
