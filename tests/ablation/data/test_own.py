"""A user's own loader: what it may return, and one line for what it may not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from mireg.ablation.data import Dataset, Samples, load
from mireg.ablation.errors import UserError

HEAD = """
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from mireg.ablation import tasks

X, Y = torch.randn(12, 5), torch.arange(12) % 3

class Pairs(Dataset):
    def __init__(self, x, y):
        self.x, self.y = x, y
    def __len__(self):
        return len(self.x)
    def __getitem__(self, index):
        return self.x[index], self.y[index]

class Stream(IterableDataset):
    def __iter__(self):
        return iter([])
"""


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, in which modules are found; what was imported from it is forgotten afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    before = set(sys.modules)
    load.cache_clear()
    yield tmp_path
    for name in set(sys.modules) - before:
        del sys.modules[name]
    load.cache_clear()


def loaded(here: Path, body: str, name: str = "mine:load") -> Dataset:
    (here / "mine.py").write_text(f"{HEAD}\ndef load():\n    {body}\n")
    return load(name, here)


@pytest.mark.parametrize(
    "body",
    [
        "return (X, Y), (X[:4], Y[:4])",
        "return (X.numpy().astype('f8'), Y.int().numpy()), [X[:4].double().numpy(), Y[:4].int().numpy()]",
        "return TensorDataset(X, Y), TensorDataset(X[:4], Y[:4])",
        "return Pairs(X, Y), Pairs(X[:4], Y[:4])",
        "return Pairs(X.numpy(), Y.tolist()), Pairs(X[:4].numpy(), Y[:4].tolist())",
    ],
)
def test_classification_in_every_form(here: Path, body: str) -> None:
    data = loaded(here, body)
    assert (data.task.name, data.outputs, data.input_shape) == ("classification", 3, (5,))
    inputs, targets = data.train.batch(slice(None))
    assert (inputs.dtype, targets.dtype) == (torch.float32, torch.int64)
    assert targets.tolist() == [i % 3 for i in range(12)]
    assert data.test is None
    assert data.final is data.validation


def test_samples_without_a_class_are_skipped(here: Path) -> None:
    data = loaded(here, "Y[::3] = -100; return (X, Y), (X, Y)")
    inputs, targets = data.train.batch(slice(None))
    assert (data.task.name, data.outputs) == ("classification", 3)
    outputs, wanted = inputs[:, :3], targets != -100
    for of in (data.task.loss, data.task.metrics["accuracy"][0]):
        assert float(of(outputs, targets)) == pytest.approx(float(of(outputs[wanted], targets[wanted])))


def test_regression(here: Path) -> None:
    data = loaded(here, "return (X, X[:, 0]), (X, X[:, 0]), (X[:2], X[:2, 0])")
    assert (data.task.name, data.outputs) == ("regression", 1)
    inputs, targets = data.train.batch(slice(None))
    assert torch.equal(inputs[:, :1], targets)
    assert data.test is not None
    assert len(data.final) == 2
    data = loaded_again(here, "return (X, X[:, :2]), (X, X[:, :2])")
    assert data.outputs == 2


def loaded_again(here: Path, body: str) -> Dataset:
    sys.modules.pop("mine", None)
    load.cache_clear()
    (here / "other.py").write_text(f"{HEAD}\ndef load():\n    {body}\n")
    return load("other:load", here)


def test_next_token(here: Path) -> None:
    data = loaded(here, "t = torch.arange(40).reshape(4, 10) % 7; return (t[:, :-1], t[:, 1:]), (t[:, :-1], t[:, 1:])")
    assert (data.task.name, data.outputs, data.input_shape) == ("next-token", 7, (9,))


@pytest.mark.parametrize(
    ("body", "task", "outputs"),
    [
        ("b = X[:, :2] > 0; return (X, b), (X, b)", "multi-label", 2),
        ("return (X, Y > 0), (X, Y > 0)", "classification", 2),
        ("m = X.reshape(12, 1, 5, 1); k = (m[:, 0] > 0).long(); return (m, k), (m, k)", "segmentation", 2),
        ("return (X, Y), (X, Y), tasks.classification(7)", "classification", 7),
        ("return X, X[:4], tasks.reconstruction(5)", "reconstruction", 5),
        ("return DataLoader(Pairs(X, Y), 4), [(X, Y)]", "classification", 3),
        ("y = Y.reshape(4, 3); return [(y, y)], [(y, y)], tasks.next_token(3)", "next-token", 3),
    ],
)
def test_other_tasks(here: Path, body: str, task: str, outputs: int) -> None:
    data = loaded(here, body)
    assert (data.task.name, data.outputs) == (task, outputs)
    inputs, targets = data.train.batch(slice(0, 4))
    assert len(inputs) == len(targets) == 4


def test_a_task_by_name(here: Path) -> None:
    (here / "mine.py").write_text(f"{HEAD}\ndef load():\n    return (X, Y), (X, Y)\nTASK = tasks.multi_label(9)\n")
    assert load("mine:load", here, task="regression").task.name == "regression"
    assert load("mine:load", here, task="regression").train.batch(slice(0, 2))[1].dtype == torch.float32
    assert load("mine:load", here, task="mine:TASK").outputs == 9
    rebuilt = load("digits", here, task="reconstruction")
    assert rebuilt.outputs == 64
    inputs, targets = rebuilt.train.batch(slice(0, 2))
    assert inputs is targets
    with pytest.raises(UserError, match="task='ranking': choose from classification, regression"):
        load("mine:load", here, task="ranking")
    with pytest.raises(UserError, match=r"mine:X is a Tensor: give a mireg\.ablation\.Task"):
        load("mine:load", here, task="mine:X")


def test_several_inputs(here: Path) -> None:
    forms = ("((X, X.byte()), Y)", "TensorDataset(X, X.byte(), Y)", "(X, X.byte(), Y)")
    for index, form in enumerate(forms):
        name = f"mine{index}:load"
        (here / f"mine{index}.py").write_text(f"{HEAD}\ndef load():\n    return {form}, {form}\n")
        data = load(name, here)
        inputs, targets = data.train.batch(torch.tensor([3, 1]))
        assert [x.shape for x in inputs] == [(2, 5), (2, 5)]
        assert inputs[1].is_floating_point()
        assert targets.tolist() == [0, 1]
        assert data.input_shape == ((5,), (5,))


def test_bytes_are_standardised_over_the_training_part(here: Path) -> None:
    data = loaded(here, "i = (torch.arange(96) % 251).byte().reshape(12, 1, 2, 4); return (i, Y), (i[:4] + 9, Y[:4])")
    assert isinstance(data.train, Samples)
    inputs, _ = data.train.batch(slice(None))
    assert inputs.mean().abs() < 1e-5
    assert inputs.std() == pytest.approx(1, abs=5e-4)
    assert data.validation.batch(slice(None))[0].std() != pytest.approx(1, abs=0.01)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ("return X", "mine:load returned float32 (12, 5): return a tuple (train, validation)"),
        ("return X, Y", "train is float32 (12, 5): give a Dataset of (input, target) pairs, or two tensors"),
        ("return ((X, Y),)", "returned a tuple of 1: return a tuple (train, validation)"),
        ("return (X, Y[:5]), (X, Y)", "train has 12 inputs but 5 targets"),
        ("return (X[:1], Y[:1]), (X, Y)", "train has 1 samples: give at least 2"),
        ("return (X[:, 0], Y), (X[:, 0], Y)", "train inputs have shape (12,): give (samples, features...)"),
        ("return (X, Y), (X[:, :4], Y)", "validation inputs are float32 (12, 4), those of train float32 (12, 5)"),
        ("return (X, Y), (X, Y * 1.0)", "validation targets are float32 (12, 1), those of train int64 (12,)"),
        ("return (X, Y - 1), (X, Y)", "train targets hold -1: count classes from 0"),
        ("Y[0] = -100; Y[1] = -1; return (X, Y), (X, Y)", "train targets hold -1: count classes from 0"),
        ("return (X, Y * 0), (X, Y)", "all train targets are the same, 0: there is nothing to learn"),
        ("return (X, Y * 0.0 + 2), (X, Y * 1.0)", "all train targets are the same, [2.0]: there is nothing to learn"),
        (
            "X[3, 1] = float('nan'); return (X, Y), (X, Y)",
            "train inputs hold NaN or infinite values, first in sample 3",
        ),
        ("y = X[:, 0].clone(); y[2] = np.inf; return (X, X[:, 0]), (X, y)", "validation targets hold NaN"),
        ("return (X, X.reshape(12, 5, 1)), (X, X.reshape(12, 5, 1))", "give int64 classes (n,), floats (n,) or (n, k)"),
        ("return (X, Y.reshape(6, 2).repeat(2, 1)), (X, Y)", "validation targets are int64 (12,), those of train"),
        ("return (list(X), Y), (X, Y)", "train inputs are a list of 12: give a tensor"),
        ("return Stream(), Pairs(X, Y)", "train is an iterable Stream: give one with a length"),
        ("return Pairs(X, ['a'] * 12), Pairs(X, Y)", "train: no (input, target) pairs of tensors of one shape"),
        ("return open('nowhere')", "FileNotFoundError: [Errno 2] No such file or directory: 'nowhere' ("),
        ("raise SystemExit(3)", "SystemExit: 3 ("),
    ],
)
def test_refused_in_one_line(here: Path, body: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        loaded(here, body)
    assert message in str(error.value)
    assert str(error.value).startswith("mine:load")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("yours:load", "yours:load: no module 'yours' in the current folder"),
        ("mine.deeper:load", "mine.deeper:load: no module 'mine.deeper' in the current folder"),
        ("mine:loads", "mine.py has no 'loads'"),
        ("mine:X", "mine:X: Tensor is not a function"),
    ],
)
def test_a_name_that_is_not_there(here: Path, name: str, message: str) -> None:
    with pytest.raises(UserError) as error:
        loaded(here, "return (X, Y), (X, Y)", name)
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def load(:", "mine:load: SyntaxError: invalid syntax ("),
        ("import nowhere", "mine:load: ModuleNotFoundError: No module named 'nowhere' ("),
        ("x = 1 / 0", "mine:load: ZeroDivisionError: division by zero ("),
    ],
)
def test_a_module_that_fails_names_the_line(here: Path, text: str, message: str) -> None:
    (here / "mine.py").write_text(text)
    with pytest.raises(UserError) as error:
        load("mine:load", here)
    assert message in str(error.value)
    assert str(error.value).endswith("mine.py, line 1)")


@pytest.mark.parametrize("name", ["imagenet", "../../etc", ":load", "mine:", ""])
def test_an_unknown_name(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose from digits, fashion-mnist"):
        load(name, tmp_path)
