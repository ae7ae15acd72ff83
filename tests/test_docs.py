"""Every block of Python in docs/loops.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.utils.data import DataLoader, TensorDataset

import mireg
from models import build
from tests.networks import bert

pytest.importorskip("lightning")
transformers = pytest.importorskip("transformers")

from lightning.pytorch import LightningModule

TEXT = (Path(__file__).parent.parent / "docs" / "loops.md").read_text()
BLOCKS = {
    section.splitlines()[0]: block
    for section in TEXT.split("\n## ")[1:]
    for block in re.findall(r"```python\n(.*?)```", section, re.DOTALL)
}


class Module(LightningModule):
    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def training_step(self, batch: tuple[Tensor, Tensor], index: int) -> Tensor:
        return cross_entropy(self.network(batch[0]), batch[1])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore:.*does not have many workers")
@pytest.mark.filterwarnings("ignore:.*isinstance.*LeafSpec")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("section", BLOCKS)
def test_block(section: str, tmp_path: Path) -> None:
    network = build("mlp", {"depth": 3, "width": 8}, (1, 4, 4), 3)
    quiet = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    names: dict[str, Any] = {
        "torch": torch,
        "mireg": mireg,
        "network": network,
        "criterion": nn.CrossEntropyLoss(),
        "loader": DataLoader(TensorDataset(torch.randn(24, 1, 4, 4), torch.randint(3, (24,))), batch_size=6),
        "device": "cpu",
        "backend": "eager",
        "path": tmp_path / "checkpoint.pt",
        "quiet": {**quiet, "enable_checkpointing": False, "default_root_dir": tmp_path},
        "lightning_module": Module(network),
        "bert": bert(),
        "rows": [{"input_ids": torch.randint(50, (7,)), "labels": i % 2} for i in range(8)],
        "arguments": transformers.TrainingArguments(
            str(tmp_path), max_steps=1, report_to=[], use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False
        ),
    }
    before = [p.clone() for p in (names["bert"] if section == "Transformers" else network).parameters()]
    exec(BLOCKS[section], names)
    after = list((names["bert"] if section == "Transformers" else network).parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
