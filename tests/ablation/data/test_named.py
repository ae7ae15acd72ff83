"""Data sets that go by a name and are not downloaded."""

from __future__ import annotations

import inspect
from pathlib import Path

import pytest
import torch

from mireg.ablation.data import DATASETS, load
from mireg.ablation.errors import UserError
from tests.ablation.data.test_folder import fill


def test_diabetes_is_standardised_by_its_training_part(tmp_path: Path) -> None:
    data = load("diabetes", tmp_path)
    assert (data.task.name, data.outputs, data.input_shape) == ("regression", 1, (10,))
    assert data.test is not None
    assert [len(part) for part in (data.train, data.validation, data.test)] == [282, 80, 80]
    for part in data.train.batch(slice(None)):
        torch.testing.assert_close(part.mean(0), torch.zeros(part.shape[1]), atol=1e-5, rtol=0)
        torch.testing.assert_close(part.std(0, correction=0), torch.ones(part.shape[1]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", DATASETS)
def test_a_data_set_says_what_it_is(name: str) -> None:
    assert (inspect.getdoc(DATASETS[name]) or "").partition("\n")[0].endswith(".")


def test_cifar10_may_be_a_folder_of_images(tmp_path: Path) -> None:
    for part in ("train", "test"):
        for label, name in enumerate(("cat", "dog")):
            fill(tmp_path / "cifar10" / part / name, 10, 100 * label, size=(32, 32))
    data = load("cifar10", tmp_path)
    assert (data.name, data.outputs, data.input_shape) == ("cifar10", 2, (3, 32, 32))


def test_shakespeare_is_a_text_of_the_data_folder(tmp_path: Path) -> None:
    (tmp_path / "shakespeare.txt").write_text("To be, or not to be. " * 100)
    data = load("shakespeare", tmp_path, 16)
    assert (data.task.name, data.input_shape) == ("next-token", (16,))


def test_without_the_text_one_line_says_where_it_belongs(tmp_path: Path) -> None:
    with pytest.raises(
        UserError, match=r"'shakespeare' is not on this machine: put .* into .*shakespeare.txt"
    ) as error:
        load("shakespeare", tmp_path / "nothing")
    assert len(str(error.value).splitlines()) == 1
