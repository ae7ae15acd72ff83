"""The callback in a real Lightning training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

pytest.importorskip("lightning")

from lightning.pytorch import LightningModule, Trainer

import mireg
from mireg.integrations.lightning import MIRegularization, target_of
from models import build

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*does not have many workers"),
    pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec"),
]


class Classifier(LightningModule):
    def __init__(self, returns: str = "loss") -> None:
        super().__init__()
        torch.manual_seed(0)
        self.network = build("mlp", {"depth": 3, "width": 8}, (1, 4, 4), 3)
        self.returns = returns
        self.seen: list[bool] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor | dict[str, Tensor]:
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.seen.append(isinstance(self.network, mireg.MIRegularized))
        return loss if self.returns == "loss" else {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 1, 4, 4, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(3, (32,), generator=generator)), batch_size=16)


def fit(module: LightningModule, folder: Path, callback: MIRegularization, **options: Any) -> Trainer:
    trainer = Trainer(
        max_epochs=options.pop("epochs", 2),
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=[callback],
        enable_checkpointing=False,
    )
    trainer.fit(module, loader(), **options)
    return trainer


def by_hand(steps: int) -> nn.Module:
    module = Classifier()
    model = mireg.wrap(module.network, weight=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    batches = list(loader())
    for step in range(steps):
        images, labels = batches[step % len(batches)]
        loss = cross_entropy(model(images), labels) + model.mi_loss(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model.unwrap()


@pytest.mark.parametrize("returns", ["loss", "dict"])
def test_trains_as_the_plain_loop_does(tmp_path: Path, returns: str) -> None:
    module = Classifier(returns)
    network = module.network
    fit(module, tmp_path, MIRegularization("network", weight=0.5))
    assert module.seen == [True] * 4
    assert module.network is network
    assert not any(m._forward_hooks for m in network.modules())
    for ours, theirs in zip(network.parameters(), by_hand(4).parameters(), strict=True):
        torch.testing.assert_close(ours, theirs)


def test_the_target_of_a_batch() -> None:
    x, y = torch.zeros(4, 2), torch.arange(4)
    assert target_of((x, y)) is y
    assert target_of([x, y]) is y
    for name in ("labels", "target", "y"):
        assert target_of({"x": x, name: y}) is y
    for batch in (x, (x, y, y), (x, "label"), {"x": x}, (x,)):
        assert target_of(batch) is None


@pytest.mark.parametrize("found", [True, False])
def test_a_target_of_ones_own(tmp_path: Path, found: bool) -> None:
    module, terms = Classifier(), []
    callback = MIRegularization("network", target=lambda batch: batch[1] % 2 if found else None, weight=0.5)
    step = module.training_step

    def watched(batch: tuple[Tensor, Tensor], index: int) -> Tensor | dict[str, Tensor]:
        wrapped = module.network
        assert isinstance(wrapped, mireg.MIRegularized)
        terms.append(list(wrapped.mi_terms()))
        return step(batch, index)

    module.training_step = watched
    fit(module, tmp_path, callback)
    assert all(name.endswith("→target") == found for name in terms[-1])


def test_a_resumed_training_takes_up_the_schedule(tmp_path: Path) -> None:
    file = tmp_path / "kept.ckpt"
    fit(Classifier(), tmp_path, MIRegularization("network", weight=0.5)).save_checkpoint(file)
    saved = torch.load(file, weights_only=False)
    assert list(saved["state_dict"]) == list(Classifier().state_dict())
    callback = MIRegularization("network", weight=0.5)
    fit(Classifier(), tmp_path, callback, epochs=3, ckpt_path=file, weights_only=False)
    assert callback.state_dict()["steps"] == 6


def test_names_a_missing_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="network='nowt': Classifier has no such submodule"):
        fit(Classifier(), tmp_path, MIRegularization("nowt"))


def test_refuses_what_it_cannot_add_to(tmp_path: Path) -> None:
    module = Classifier()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="Classifier optimises by hand"):
        fit(module, tmp_path, MIRegularization("network"))
