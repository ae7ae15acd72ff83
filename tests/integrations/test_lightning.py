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

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import LearningRateFinder

import mireg
from mireg.integrations.lightning import MIRegularization
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
        self.lr = 0.1
        self.seen: list[bool] = []

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor | dict[str, Tensor]:
        images, labels = batch
        loss = cross_entropy(self.network(images), labels)
        self.seen.append(isinstance(self.network, mireg.MIRegularized))
        return loss if self.returns == "loss" else {"loss": loss}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr)


def loader() -> DataLoader[tuple[Tensor, ...]]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(32, 1, 4, 4, generator=generator)
    return DataLoader(TensorDataset(images, torch.randint(3, (32,), generator=generator)), batch_size=16)


def trainer_of(folder: Path, *callbacks: Callback, epochs: int = 2) -> Trainer:
    return Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        default_root_dir=folder,
        callbacks=list(callbacks),
        enable_checkpointing=False,
    )


def fit(module: LightningModule, folder: Path, callback: MIRegularization, epochs: int = 2, **options: Any) -> Trainer:
    trainer = trainer_of(folder, callback, epochs=epochs)
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
    assert any(name.endswith("→target") for name in terms[-1]) == found


def test_a_resumed_training_takes_up_the_schedule(tmp_path: Path) -> None:
    file = tmp_path / "kept.ckpt"
    fit(Classifier(), tmp_path, MIRegularization("network", weight=0.5)).save_checkpoint(file)
    saved = torch.load(file, weights_only=False)
    assert list(saved["state_dict"]) == list(Classifier().state_dict())
    callback = MIRegularization("network", weight=0.5)
    fit(Classifier(), tmp_path, callback, epochs=3, ckpt_path=file, weights_only=False)
    assert callback.state_dict()["steps"] == 6


def test_each_fit_starts_the_schedule(tmp_path: Path) -> None:
    callback = MIRegularization("network", weight=0.5)
    for _ in range(2):
        fit(Classifier(), tmp_path, callback)
        assert callback.state_dict()["steps"] == 4


def test_a_trainer_that_goes_on_takes_up_the_schedule(tmp_path: Path) -> None:
    callback, module = MIRegularization("network", weight=0.5), Classifier()
    trainer = fit(module, tmp_path, callback)
    trainer.fit_loop.max_epochs = 3
    trainer.fit(module, loader())
    assert callback.state_dict()["steps"] == 6


@pytest.mark.filterwarnings("ignore:You called `self.log")
def test_a_search_for_a_learning_rate_uses_nothing_up(tmp_path: Path) -> None:
    callback = MIRegularization("network", weight=0.5)
    finder = LearningRateFinder(num_training_steps=5, early_stop_threshold=None, min_lr=0.01, max_lr=0.1)
    trainer_of(tmp_path, finder, callback).fit(Classifier(), loader())
    assert callback.state_dict()["steps"] == 4


def test_accumulated_passes_are_one_step(tmp_path: Path) -> None:
    callback = MIRegularization("network", weight=0.5)
    trainer = trainer_of(tmp_path, callback, epochs=3)
    trainer.accumulate_grad_batches = 2
    trainer.fit(Classifier(), loader())
    assert trainer.global_step == callback.state_dict()["steps"] == 3


def test_the_losses_are_logged_apart(tmp_path: Path) -> None:
    trainer = fit(Classifier(), tmp_path, MIRegularization("network", weight=0.5))
    logged = trainer.logged_metrics
    assert logged["mi_loss"] != 0
    assert logged["task_loss"] > 0


def test_the_terms_of_two_networks_are_logged_apart_from_the_loss(tmp_path: Path) -> None:
    class Pair(Classifier):
        def __init__(self) -> None:
            super().__init__()
            self.other = build("mlp", {"depth": 3, "width": 8}, (1, 4, 4), 3)
            self.losses: list[float] = []

        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
            images, labels = batch
            loss = cross_entropy(self.network(images), labels) + cross_entropy(self.other(images), labels)
            self.losses.append(loss.item())
            return loss

    module = Pair()
    callbacks = (MIRegularization("network", weight=0.5), MIRegularization("other", weight=0.5))
    trainer = trainer_of(tmp_path, *callbacks)
    trainer.fit(module, loader())
    logged = trainer.logged_metrics
    assert set(logged) == {"mi_loss/network", "mi_loss/other", "task_loss"}
    assert logged["task_loss"] == pytest.approx(module.losses[-1])
    assert logged["mi_loss/network"] != logged["mi_loss/other"]


def test_an_interrupted_fit_leaves_the_network_as_it_was(tmp_path: Path) -> None:
    class Broken(Classifier):
        def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor | dict[str, Tensor]:
            if index == 1:
                raise ArithmeticError
            return super().training_step(batch, index)

    module, callback = Broken(), MIRegularization("network")
    with pytest.raises(ArithmeticError):
        fit(module, tmp_path, callback)
    assert type(module.network) is type(Classifier().network)
    assert "training_step" not in vars(module)


class Dicts(Classifier):
    def training_step(self, batch: Any, index: int) -> Tensor:
        return cross_entropy(self.network(batch["image"]), batch["klass"])


@pytest.mark.parametrize("target", [None, "klass"])
def test_batches_without_a_known_target(tmp_path: Path, target: str | None, recwarn: pytest.WarningsRecorder) -> None:
    pairs: Any = loader().dataset
    rows: Any = [{"image": image, "klass": label} for image, label in pairs]
    callback = MIRegularization("network", weight=0.5, target=target)
    trainer_of(tmp_path, callback).fit(Dicts(), DataLoader(rows, 16))
    said = [str(w.message) for w in recwarn if "no target found" in str(w.message)]
    assert len(said) == (target is None)
    assert all("a dict with 'image', 'klass'" in text for text in said)


def test_names_a_missing_network(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="network='nowt': Classifier has no such submodule"):
        fit(Classifier(), tmp_path, MIRegularization("nowt"))


def test_a_network_that_is_made_too_late(tmp_path: Path) -> None:
    class Late(Classifier):
        def __init__(self) -> None:
            super().__init__()
            del self.network

        def configure_model(self) -> None:
            self.network = build("mlp", {"depth": 3, "width": 8}, (1, 4, 4), 3)

    with pytest.raises(ValueError, match=r"make it in __init__, not in setup\(\) or configure_model\(\)"):
        fit(Late(), tmp_path, MIRegularization("network"))


class Both(Classifier):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.ModuleDict({"network": build("mlp", {"depth": 3, "width": 8}, (1, 4, 4), 3)})

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        images, labels = batch
        return cross_entropy(self.network(images) + self.inner["network"](images), labels)


def test_a_callback_for_each_of_two_networks(tmp_path: Path) -> None:
    module, names = Both(), ("network", "inner.network")
    networks = [module.get_submodule(name) for name in names]
    callbacks = [MIRegularization(name, weight=0.5) for name in names]
    trainer = trainer_of(tmp_path, *callbacks)
    trainer.fit(module, loader())
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    assert [callback.state_dict()["steps"] for callback in callbacks] == [4, 4]
    assert [module.get_submodule(name) for name in names] == networks
    assert "training_step" not in vars(module)


def test_refuses_what_it_cannot_add_to(tmp_path: Path) -> None:
    module = Classifier()
    module.automatic_optimization = False
    with pytest.raises(ValueError, match="Classifier optimises by hand"):
        fit(module, tmp_path, MIRegularization("network"))
