"""Losses and metrics of each task by hand, and what is no task."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch.nn.functional import mse_loss

from mireg.ablation import Task, tasks
from mireg.ablation.errors import UserError

LOGITS = torch.tensor([[2.0, 0.0], [0.0, 0.0]])


def test_losses() -> None:
    wanted = (math.log(1 + math.exp(-2)) + math.log(2)) / 2
    assert tasks.classification(2).loss(LOGITS, torch.tensor([0, 1])).item() == pytest.approx(wanted)
    assert tasks.next_token(2).loss(LOGITS[None], torch.tensor([[0, 1]])).item() == pytest.approx(wanted)
    assert tasks.segmentation(2).loss(LOGITS.T[None], torch.tensor([[0, 1]])).item() == pytest.approx(wanted)
    assert tasks.regression(1).loss(torch.tensor([[1.0], [3.0]]), torch.tensor([[0.0], [1.0]])).item() == 2.5
    labels = tasks.multi_label(2).loss(torch.zeros(1, 2), torch.tensor([[True, False]]))
    assert labels.item() == pytest.approx(math.log(2))
    assert tasks.reconstruction(4).loss(torch.zeros(1, 4), torch.ones(1, 1, 2, 2)).item() == 1


def test_ignored_targets_count_nowhere() -> None:
    y = torch.tensor([0, -100])
    assert tasks.classification(2).loss(LOGITS, y).item() == pytest.approx(math.log(1 + math.exp(-2)))
    assert tasks.accuracy(LOGITS, y) == 1
    task = tasks.segmentation(2, ignore_index=255)
    y = torch.tensor([[0, 255]])
    assert task.loss(LOGITS.T[None], y).item() == pytest.approx(math.log(1 + math.exp(-2)))
    target = task.target(y)
    assert target is not None
    assert target.tolist() == [[0, -100]]
    assert task.metrics["mean_iou"][0](LOGITS.T[None], y) == 1


def test_metrics() -> None:
    outputs = torch.tensor([[3.0, -1.0], [1.0, 2.0], [-2.0, -3.0], [-1.0, 1.0]])
    true = torch.tensor([[1, 0], [0, 1], [1, 0], [0, 0]])
    assert tasks.f1(outputs, true) == pytest.approx(2 * 2 / (4 + 3))
    assert tasks.average_precision(outputs, true) == pytest.approx(((1 + 2 / 4) / 2 + 1) / 2)
    assert math.isnan(tasks.average_precision(outputs, true * 0))
    maps = torch.tensor([[0, 0, 1, 1], [0, 2, 1, 1]])
    scores = torch.nn.functional.one_hot(torch.tensor([[0, 1, 1, 1], [0, 2, 2, 1]]), 4).permute(0, 2, 1).float()
    assert tasks.mean_iou(scores, maps) == pytest.approx((2 / 3 + 3 / 5 + 1 / 2) / 3)
    assert tasks.accuracy(torch.eye(2)[None], torch.tensor([[0, 0]])) == 0.5


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"metrics": {}}, r"give task 'mine' at least one"),
        ({"metrics": {"f1": mse_loss}}, r"metric 'f1' of task 'mine'.*give \(function, \"max\"\)"),
        ({"metrics": {"f1": (mse_loss, "most")}}, r"metric 'f1' of task 'mine'"),
        ({"loss": None}, "give it a loss"),
    ],
)
def test_what_is_no_task(change: dict[str, Any], message: str) -> None:
    options: dict[str, Any] = {"name": "mine", "loss": mse_loss, "metrics": {"loss": (mse_loss, "min")}, "outputs": 1}
    with pytest.raises(UserError, match=message):
        Task(**{**options, **change})


def test_the_loss_is_a_metric_of_every_task() -> None:
    assert tasks.classification(3).modes == {"accuracy": "max", "loss": "min"}
    assert list(tasks.next_token(3).modes) == ["loss", "accuracy"]
