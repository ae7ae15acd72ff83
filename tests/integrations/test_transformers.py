"""The Trainer in a real training of a small BERT."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers")
pytest.importorskip("accelerate")

from transformers import TrainingArguments

from mireg.integrations.transformers import MITrainer, target_of
from mireg.wrapper import MIRegularized
from tests.networks import bert, gpt2


def train(folder: Path, resume: str | None = None, **options: Any) -> MITrainer:
    torch.manual_seed(0)
    rows = [
        {"input_ids": torch.randint(1, 50, (7,)), "attention_mask": torch.ones(7, dtype=torch.int64), "labels": i % 2}
        for i in range(32)
    ]
    arguments = TrainingArguments(
        output_dir=str(folder),
        per_device_train_batch_size=8,
        max_steps=4,
        logging_steps=1,
        learning_rate=1e-2,
        report_to=[],
        use_cpu=True,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        **{"save_strategy": "no", **options.pop("arguments", {})},
    )
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


def test_the_target_among_the_inputs() -> None:
    classes, tokens = torch.arange(4), torch.tensor([[5, 6, 7], [8, -100, 9]])
    assert target_of(bert(), {"labels": classes}) is classes
    assert target_of(bert(), {"input_ids": tokens}) is None
    assert target_of(gpt2(), {"labels": tokens}).tolist() == [[6, 7, -100], [-100, 9, -100]]


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
    assert all(name.endswith("→target") == found for name in names)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_weight_0_is_the_plain_trainer(tmp_path: Path, accumulation: int) -> None:
    arguments = {"gradient_accumulation_steps": accumulation}
    off = train(tmp_path, mi={"weight": 0.0}, arguments=dict(arguments))
    on = train(tmp_path, mi={"weight": 0.5}, arguments=dict(arguments))
    losses = [[e["loss"] for e in trainer.state.log_history if "loss" in e] for trainer in (off, on)]
    assert losses[0] != losses[1]
    assert [e["mi_loss"] for e in off.state.log_history if "loss" in e] == [0.0] * 4


def test_a_resumed_training_goes_on_as_it_was(tmp_path: Path) -> None:
    arguments = {"save_strategy": "steps", "save_steps": 1}
    mi = {"weight": 0.5}
    whole = train(tmp_path, mi=mi, arguments=dict(arguments))
    resumed = train(tmp_path, str(tmp_path / "checkpoint-3"), mi=mi, arguments=dict(arguments))
    for name, weight in whole.model.state_dict().items():
        assert torch.equal(weight, resumed.model.state_dict()[name]), name
    state = torch.load(tmp_path / "checkpoint-3" / "mireg.pt", weights_only=True)
    assert state["steps"] == 3
