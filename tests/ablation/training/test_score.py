"""What each task asks of a network, its metrics over a split, and runs on small data."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from mireg.ablation.arms import Term
from mireg.ablation.data import Dataset, Samples, load
from mireg.ablation.errors import UserError
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.study.metric import Metric
from mireg.ablation.tasks import TASKS, classification, next_token, regression
from mireg.ablation.training.score import check_outputs, score
from tests.ablation.running import train


@pytest.mark.parametrize("chunk", [1, 2, 3, 100])
def test_scores_do_not_hang_on_the_chunk(chunk: int) -> None:
    split = Samples(torch.tensor([[3.0, 1.0], [0.0, 1.0], [5.0, 2.0]]), torch.tensor([0, 0, 0]))
    network = nn.Sequential(nn.Identity(), nn.Dropout(0.5))
    assert score(network, split, classification(2), "accuracy", chunk) == pytest.approx(2 / 3)
    wanted = cross_entropy(split.inputs, split.targets).item()
    assert score(network, split, classification(2), "loss", chunk) == pytest.approx(wanted)
    assert network.training


def test_accuracy_of_tokens_is_over_all_of_them() -> None:
    split = Samples(torch.tensor([[0, 1], [1, 0]]), torch.tensor([[0, 1], [1, 1]]))
    assert score(nn.Embedding.from_pretrained(torch.eye(2)), split, next_token(2), "accuracy") == 0.75


@pytest.mark.parametrize(
    ("task", "output", "message"),
    [
        ("classification", torch.zeros(4, 2), r"returns \(4, 2\) for 4 samples: classification here needs \(4, 3\)"),
        ("next-token", torch.zeros(4, 3), r"returns \(4, 3\) for 4 samples: next-token here needs \(4, 5, 3\)"),
        ("regression", {"out": torch.zeros(4, 3)}, r"returns a dict: regression needs a tensor \(4, 3\)"),
    ],
)
def test_outputs_of_another_shape_are_refused(task: str, output: object, message: str) -> None:
    targets = {"classification": torch.zeros(4), "next-token": torch.zeros(4, 5), "regression": torch.zeros(4, 3)}
    with pytest.raises(ValueError, match=message):
        check_outputs(TASKS[task](3), output, targets[task])


def test_a_metric_of_less_is_better() -> None:
    loss = Metric("loss", "min")
    assert loss.reached(0.5, 0.5)
    assert not loss.reached(0.6, 0.5)
    assert loss.gain(-0.1) == 0.1
    assert loss.worst == math.inf


def difference() -> Dataset:
    x = torch.randn(64, 4, generator=torch.Generator().manual_seed(0))
    split = Samples(x, x[:, :1] - x[:, 1:2])
    return Dataset("own", regression(1), split, split, None)


def trained(folder: Path, data: Dataset, network: nn.Module, **changes: object) -> dict[str, Any]:
    cell = Cell("cell", "digits", "mlp", 0.5, 40, batch_size=8, eval_every=10, lr=1e-2, metric="loss")
    spec = RunSpec(cell, "none", 0, Term())
    train(spec, data, lambda cell, data: network, folder)
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result


def test_a_regression_is_trained(tmp_path: Path) -> None:
    result = trained(tmp_path, difference(), nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)))
    first, *_, last = result["curve"]
    assert last["validation_loss"] < 0.5 * first["validation_loss"]
    assert result["test_loss"] == last["validation_loss"]  # there is no test part
    assert (result["final_split"], result["task"]) == ("validation", "regression")


def test_a_run_whose_validation_loss_is_not_finite_breaks(tmp_path: Path) -> None:
    class Diverges(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1))
            self.evaluations = 0

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.evaluations += not self.training
            return self.layers(x) * (math.inf if self.evaluations > 2 and not self.training else 1)

    result = trained(tmp_path, difference(), Diverges())
    assert result["failure"] == "step 10, arm none: the validation loss is not finite; a lower learning rate may help"
    assert [point["step"] for point in result["curve"]] == [0]
    assert result["test_loss"] is None


def test_targets_are_in_the_unit_of_the_metric() -> None:
    with pytest.raises(UserError, match=r"goal=2\.0: give an accuracy above 0 and at most 1"):
        Cell("cell", "digits", "mlp", 2.0, 10)
    assert Cell("cell", "digits", "mlp", 2.0, 10, metric="loss").measured == Metric("loss", "min")
    with pytest.raises(UserError, match=r"metric='f1': choose from accuracy, loss"):
        Cell("cell", "digits", "mlp", 0.5, 10, metric="f1")


def test_digits_are_a_classification() -> None:
    assert (load("digits", Path()).task.name, load("digits", Path()).outputs) == ("classification", 10)
