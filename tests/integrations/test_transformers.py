"""The Trainer in a real training of a small BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from torch import nn
from transformers import (
    BertForTokenClassification,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    TrainingArguments,
)

from mireg.integrations.transformers import MITrainer, shifts_labels, target_of
from mireg.wrapper import MIRegularized
from tests.networks import bert, gpt2


def training_arguments(folder: Path, **options: Any) -> TrainingArguments:
    usual = {
        "per_device_train_batch_size": 16,
        "max_steps": 4,
        "logging_steps": 1,
        "learning_rate": 1e-2,
        "report_to": [],
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
    }
    return TrainingArguments(output_dir=str(folder), **{**usual, **options})


def train(folder: Path, resume: str | None = None, **options: Any) -> MITrainer:
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.randint(1, 50, (7,)), "attention_mask": torch.ones(7, dtype=torch.int64), "labels": i % 2}
        for i in range(32)
    ]
    arguments = training_arguments(folder, **options.pop("arguments", {}))
    trainer = MITrainer(
        model=bert(hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0),
        args=arguments,
        train_dataset=rows,
        eval_dataset=rows,
        **options,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def test_logs_the_term_and_leaves_the_model_alone(tmp_path: Path) -> None:
    trainer = train(tmp_path, mi={"weight": 0.5})
    terms = [entry["mi_loss"] for entry in trainer.state.log_history if "mi_loss" in entry]
    assert len(terms) == 4
    assert all(term != 0 for term in terms)
    assert not any(m._forward_hooks for m in trainer.model.modules())
    assert "mi_loss" not in trainer.evaluate()


class Mine(GPT2LMHeadModel):  # type: ignore[no-untyped-call]
    """A subclass whose name says nothing."""


class Adapted(nn.Module):
    """A model inside another, as adapters have it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model = model

    def forward(self, **inputs: Any) -> Any:
        return self.base_model(**inputs)


def t5() -> nn.Module:
    options: dict[str, Any] = {"vocab_size": 50, "decoder_start_token_id": 0}
    options |= {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(**options))


SHIFTING = {
    "GPT-2": (gpt2, True),
    "a subclass": (lambda: Mine(gpt2().config), True),
    "adapted": (lambda: Adapted(gpt2()), True),
    "encoder and decoder": (t5, False),
    "encoder": (lambda: BertForTokenClassification(bert(num_labels=50).config), False),
}


@pytest.mark.parametrize("name", SHIFTING)
@pytest.mark.parametrize("smoothed", [False, True])
def test_the_loss_says_whether_it_shifts_the_labels(name: str, smoothed: bool) -> None:
    make, shifted = SHIFTING[name]
    model = make()
    labels = torch.randint(1, 50, (3, 7))
    labels[0, :3] = -100
    outputs = model(input_ids=torch.randint(1, 50, (3, 7)), labels=labels)
    loss = 2 * outputs.loss + 0.1 * outputs.logits.logsumexp(-1).mean() if smoothed else outputs.loss
    assert shifts_labels(model, labels, loss, outputs) == shifted
    if name != "adapted":  # without logits
        target = target_of(model, {"labels": labels})
        assert target is not None
        assert torch.equal(target[:, :-1], labels[:, 1:] if shifted else labels[:, :-1])


def test_a_language_model_is_rewarded_for_the_next_token(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    mi_loss = MIRegularized.mi_loss

    def watched(self: MIRegularized, target: Any = None) -> Any:
        seen.append(target)
        return mi_loss(self, target)

    monkeypatch.setattr(MIRegularized, "mi_loss", watched)
    tokens = [torch.randint(1, 50, (7,)) for _ in range(8)]
    rows = [{"input_ids": row, "labels": row} for row in tokens]
    arguments = training_arguments(tmp_path, max_steps=1)
    MITrainer(model=Mine(gpt2().config), args=arguments, train_dataset=rows, mi={"weight": 0.5}).train()
    (target,) = seen
    assert (target[:, -1] == -100).all()
    assert {tuple(row.tolist()) for row in target[:, :-1]} == {tuple(row[1:].tolist()) for row in tokens}


@pytest.mark.parametrize("found", [True, False])
def test_a_target_of_ones_own(tmp_path: Path, found: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    names: set[str] = set()
    unwrap = MIRegularized.unwrap

    def watched(self: MIRegularized) -> Any:
        names.update(self.mi_terms())
        return unwrap(self)

    monkeypatch.setattr(MIRegularized, "unwrap", watched)
    options: dict[str, Any] = {} if found else {"mi_target": lambda model, inputs: None}
    train(tmp_path, mi={"weight": 0.5}, **options)
    assert names
    assert any(name.endswith("→target") for name in names) == found


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weight_0_is_the_plain_trainer(tmp_path: Path, accumulation: int) -> None:
    arguments = {"gradient_accumulation_steps": accumulation}
    off = train(tmp_path, mi={"weight": 0.0}, arguments=dict(arguments))
    on = train(tmp_path, mi={"weight": 0.5}, arguments=dict(arguments))
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (off, on)]
    assert losses[0] != losses[1]
    assert [e["mi_loss"] for e in off.state.log_history if "loss" in e] == [0.0] * 4
    for entry in (e for e in on.state.log_history if "loss" in e):
        assert entry["mi_loss"] != 0
        assert entry["task_loss"] == pytest.approx(entry["loss"] - entry["mi_loss"])
    first = [next(e["task_loss"] for e in trainer.state.log_history if "loss" in e) for trainer in (off, on)]
    assert first[0] == pytest.approx(first[1], rel=1e-3)


def test_a_resumed_training_goes_on_as_it_was(tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 1}
    mi = {"weight": 0.5}
    whole = train(tmp_path, mi=mi, arguments=dict(arguments))
    resumed = train(tmp_path, str(tmp_path / "checkpoint-3"), mi=mi, arguments=dict(arguments))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    state = torch.load(tmp_path / "checkpoint-3" / "mireg.pt", weights_only=True)
    assert state["steps"] == 3


def test_each_training_starts_the_schedule_and_counts_optimizer_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []
    unwrap = MIRegularized.unwrap

    def watched(self: MIRegularized) -> Any:
        steps.append(self.regularizer.steps)
        return unwrap(self)

    monkeypatch.setattr(MIRegularized, "unwrap", watched)
    trainer = train(tmp_path, mi={"weight": 0.5}, arguments={"gradient_accumulation_steps": 2})
    trainer.train()
    assert steps == [4, 4]
