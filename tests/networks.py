"""Networks as people have them, small: what ``layers="auto"`` must be right for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn.functional import max_pool2d, relu, silu

ROWS = 8


@dataclass
class Case:
    """A network, a batch for it, and layers that it must be found to have."""

    make: Callable[[], nn.Module]
    args: Callable[[], tuple[Any, ...]] = tuple
    kwargs: Callable[[], dict[str, Any]] = dict
    layers: tuple[str, ...] = field(default=())


def images(size: int, channels: int = 3) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(ROWS, channels, size, size),)


def rows(*shape: int) -> Callable[[], tuple[Tensor]]:
    return lambda: (torch.randn(shape),)


def tokens() -> dict[str, Tensor]:
    mask = torch.ones(ROWS, 7, dtype=torch.int64)
    mask[:2, 5:] = 0
    return {"input_ids": torch.randint(1, 50, (ROWS, 7)), "attention_mask": mask}


def tokens_and_labels() -> dict[str, Tensor]:
    batch = tokens()
    return {**batch, "labels": batch["input_ids"]}


def bert(**options: Any) -> Any:
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=50,
        hidden_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=48,
        max_position_embeddings=16,
        **options,
    )
    return transformers.BertForSequenceClassification(config)


def gpt2() -> Any:
    transformers = pytest.importorskip("transformers")
    sizes = {"vocab_size": 50, "n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 16}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    return transformers.GPT2LMHeadModel(config)


def timm_model(name: str, **options: Any) -> nn.Module:
    network: nn.Module = pytest.importorskip("timm").create_model(name, num_classes=4, **options)
    return network


def vgg11() -> nn.Module:
    """With 64 units, not 4096, in the classifier: the rest as it is."""
    with torch.device("meta"):
        network = torchvision.models.vgg11(num_classes=4)
    network.features = torchvision.models.vgg.make_layers(torchvision.models.vgg.cfgs["A"])
    hidden = [layer for width in (512, 64) for layer in (nn.Linear(width, 64), nn.ReLU(True), nn.Dropout())]
    network.avgpool, network.classifier = nn.AdaptiveAvgPool2d(1), nn.Sequential(*hidden, nn.Linear(64, 4))
    return network


class Recurrent(nn.Module):
    def __init__(
        self, cell: Callable[..., nn.RNNBase], *, batch_first: bool, use_state: bool = False, **options: Any
    ) -> None:
        super().__init__()
        self.rnn = cell(5, 8, batch_first=batch_first, **options)
        self.head = nn.Linear(8, 3)
        self.batch_first, self.use_state = batch_first, use_state

    def forward(self, x: Tensor) -> Tensor:
        outputs, state = self.rnn(x)
        if self.use_state:
            return self.head((state[0] if isinstance(state, tuple) else state)[-1])
        return self.head(outputs[:, -1] if self.batch_first else outputs[-1])


class Encoder(nn.Module):
    def __init__(self, *, batch_first: bool) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=batch_first)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.head = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(x))


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down, self.middle, self.up_block = self.block(1, 8), self.block(8, 16), self.block(16, 8)
        self.up = nn.ConvTranspose2d(16, 8, 2, 2)
        self.out = nn.Conv2d(8, 2, 1)

    @staticmethod
    def block(inputs: int, outputs: int) -> nn.Module:
        convs = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        return nn.Sequential(convs[0], nn.ReLU(inplace=True), convs[1], nn.ReLU(inplace=True))

    def forward(self, x: Tensor) -> Tensor:
        skip = self.down(x)
        deep = self.up(self.middle(max_pool2d(skip, 2)))
        return self.out(self.up_block(torch.cat([deep, skip], 1)))


class TimedBlock(nn.Module):
    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
        self.time = nn.Linear(16, outputs)
        self.skip = nn.Conv2d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        hidden = self.conv1(silu(x)) + self.time(silu(time))[:, :, None, None]
        return self.conv2(silu(hidden)) + self.skip(x)


class DenoisingUNet(nn.Module):
    """An image and a time step, embedded by layers of its own that every block reads."""

    def __init__(self) -> None:
        super().__init__()
        self.time = nn.Sequential(nn.Linear(8, 16), nn.SiLU(), nn.Linear(16, 16))
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.down, self.middle = TimedBlock(8, 8), TimedBlock(8, 8)
        self.up = nn.ModuleList([TimedBlock(16, 8), TimedBlock(16, 8)])
        self.head = nn.Conv2d(8, 3, 3, padding=1)

    def forward(self, time: Tensor, image: Tensor) -> Tensor:
        angles = time[:, None] * torch.arange(1, 5)
        time = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        skips = [x := self.stem(image)]
        skips.append(x := self.down(x, time))
        x = self.middle(x, time)
        for block in self.up:
            x = block(torch.cat([x, skips.pop()], 1), time)
        return self.head(silu(x))


class FiLM(nn.Module):
    """A condition that scales and shifts every layer."""

    def __init__(self) -> None:
        super().__init__()
        self.condition = nn.Sequential(nn.Linear(5, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 32))
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else 8, 8, 3, padding=1) for k in range(3))
        self.films = nn.ModuleList(nn.Linear(32, 16) for _ in range(3))
        self.head = nn.Linear(8, 2)

    def forward(self, condition: Tensor, x: Tensor) -> Tensor:
        condition = self.condition(condition)
        for conv, film in zip(self.convs, self.films, strict=True):
            scale, shift = film(condition)[:, :, None, None].chunk(2, 1)
            x = relu(conv(x) * (1 + scale) + shift)
        return self.head(x.mean((2, 3)))


class Features(nn.Module):
    """All hidden layers in the result, before the logits."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(5, 5), nn.Tanh()) for _ in range(4))
        self.head = nn.Linear(5, 3)

    def forward(self, x: Tensor) -> dict[str, Any]:
        features = []
        for block in self.blocks:
            features.append(x := block(x))
        return {"features": features, "logits": self.head(x), "pooled": torch.stack(features).mean(0)}


class Functional(nn.Module):
    """Activations that are no modules, one layer used twice, a dict for a result."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again, self.head = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        x = relu(self.first(x))
        x = relu(self.again(x))
        return {"logits": self.head(relu(self.again(x)))}


@dataclass
class Result:
    loss: Tensor
    logits: Tensor


class TwoInputs(nn.Module):
    """A mask first, two inputs of numbers, a dataclass with a scalar first."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(5, 8), nn.Linear(3, 8)
        self.joint, self.after, self.head = nn.Linear(16, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, use: Tensor, x: Tensor, y: Tensor) -> Result:
        joint = relu(self.joint(torch.cat([self.a(x).relu(), self.b(y).relu()], 1)))
        logits = self.head(relu(self.after(joint)) * use)
        return Result(logits.square().mean(), logits)


class Overwriting(nn.Module):
    """Each block adds to its input in place."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(5, 8)
        self.blocks = nn.ModuleList(nn.Sequential(nn.ReLU(), nn.Linear(8, 8)) for _ in range(3))
        self.merge, self.head = nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x += block(x)
        return self.head(self.merge(x).relu())


class VariablesInTheBatch(nn.Module):
    """A transformer for time series that treats every variable on its own, with as many channels as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(4, ROWS)
        layers = (nn.TransformerEncoderLayer(ROWS, 2, 16, dropout=0.0, batch_first=True) for _ in range(2))
        self.layers = nn.Sequential(*layers)
        self.head = nn.Linear(3 * ROWS, 2)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x.transpose(1, 2).unfold(-1, 4, 4))
        hidden = self.layers(patches.flatten(0, 1))
        return self.head(hidden.flatten(1)).view(*patches.shape[:2], -1).transpose(1, 2)


class TwoViews(nn.Module):
    """Two views in one batch, with as many channels as samples."""

    def __init__(self) -> None:
        super().__init__()
        self.convs = nn.ModuleList(nn.Conv2d(3 if k == 0 else ROWS, ROWS, 3, padding=1) for k in range(2))
        self.head = nn.Linear(ROWS, 4)

    def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, ...]:
        x = torch.cat([one, two])
        for conv in self.convs:
            x = conv(x).tanh()
        return self.head(x.mean((2, 3))).chunk(2)


class CellsOverTime(nn.Module):
    """Layers whose state goes from step to step, and an output at each step."""

    def __init__(self) -> None:
        super().__init__()
        self.cells = nn.ModuleList(nn.GRUCell(5 if k == 0 else ROWS, ROWS) for k in range(3))
        self.head = nn.Linear(ROWS, 2)

    def forward(self, x: Tensor) -> Tensor:
        states = [torch.zeros(len(x), ROWS) for _ in self.cells]
        outputs = []
        for step in x.unbind(1):
            for index, cell in enumerate(self.cells):
                states[index] = step = cell(step, states[index])
            outputs.append(self.head(step))
        return torch.stack(outputs, 1)


class ActorCritic(nn.Module):
    """Two heads on a common trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh())
        self.actor = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3))
        self.critic = nn.Sequential(nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 1))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        x = self.trunk(x)
        return self.actor(x), self.critic(x)


NETWORKS: dict[str, Case] = {
    "resnet18": Case(
        torchvision.models.resnet18, images(32), layers=("input", "layer1.0", "layer1.1", "layer2.0", "layer4.0")
    ),
    "vgg11": Case(
        vgg11,
        images(32),
        layers=("input", "features.2", "features.5", "classifier.2"),
    ),
    "mobilenet_v3_small": Case(torchvision.models.mobilenet_v3_small, images(32)),
    "densenet121": Case(torchvision.models.densenet121, images(32), layers=("input", "features.transition1.pool")),
    "convnext_tiny": Case(torchvision.models.convnext_tiny, images(32), layers=("input", "features.1.0")),
    "vit_b_16": Case(
        lambda: torchvision.models.vit_b_16(image_size=32), images(32), layers=("encoder.layers.encoder_layer_0",)
    ),
    "swin_t": Case(torchvision.models.swin_t, images(64), layers=("input", "features.1.0", "features.3.0")),
    "timm-resnet": Case(lambda: timm_model("resnet10t"), images(32), layers=("input", "layer1", "layer3")),
    "timm-vit": Case(
        lambda: timm_model("vit_tiny_patch16_224", img_size=32, depth=3),
        images(32),
        layers=("input", "patch_embed", "blocks.0", "blocks.1"),
    ),
    "bert": Case(bert, kwargs=tokens, layers=("bert.encoder.layer.0.attention", "bert.encoder.layer.1.output")),
    "bert-eager-attention": Case(lambda: bert(attn_implementation="eager"), kwargs=tokens),
    "gpt2": Case(gpt2, kwargs=tokens_and_labels, layers=("transformer.h.0", "transformer.h.1")),
    "lstm": Case(lambda: nn.LSTM(5, 8, 2, batch_first=True), rows(ROWS, 7, 5), layers=("input", "output[0]")),
    "gru": Case(
        lambda: Recurrent(nn.GRU, batch_first=True, num_layers=2),
        rows(ROWS, 7, 5),
        layers=("input", "rnn[0]", "rnn[1]"),
    ),
    "lstm-sequence-first": Case(
        lambda: Recurrent(nn.LSTM, batch_first=False, use_state=True), rows(7, ROWS, 5), layers=("input", "rnn")
    ),
    "transformer-encoder": Case(
        lambda: Encoder(batch_first=True), rows(ROWS, 7, 16), layers=("input", "encoder.layers.0.norm1")
    ),
    "transformer-encoder-sequence-first": Case(
        lambda: Encoder(batch_first=False), rows(7, ROWS, 16), layers=("input", "encoder.layers.0.norm1")
    ),
    "u-net": Case(UNet, images(16, 1), layers=("input", "down.1", "down.3", "up_block.1", "up_block.3")),
    "functional-and-twice": Case(Functional, rows(ROWS, 5), layers=("input", "first", "again", "again#2")),
    "denoising-u-net": Case(
        DenoisingUNet,
        lambda: (torch.rand(ROWS), torch.randn(ROWS, 3, 8, 8)),
        layers=("input", "stem", "up.0", "up.1"),
    ),
    "film": Case(
        FiLM,
        lambda: (torch.randn(ROWS, 5), torch.randn(ROWS, 3, 8, 8)),
        layers=("input", "convs.0", "convs.1", "convs.2"),
    ),
    "features": Case(Features, rows(ROWS, 5), layers=("input", "blocks.0", "blocks.1", "blocks.2", "blocks.3")),
    "two-inputs": Case(
        TwoInputs,
        lambda: (torch.ones(ROWS, 1), torch.randn(ROWS, 5), torch.randn(ROWS, 3)),
        layers=("a", "joint", "after"),
    ),
    "overwriting": Case(Overwriting, rows(ROWS, 5), layers=("input", "stem", "merge")),
    "conv1d": Case(
        lambda: nn.Sequential(
            nn.Conv1d(2, 8, 3), nn.ReLU(), nn.Conv1d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(24, 2)
        ),
        rows(ROWS, 2, 7),
        layers=("input", "1", "4"),
    ),
    "variables-in-the-batch": Case(
        VariablesInTheBatch, rows(ROWS, 12, 3), layers=("input", "embed", "layers.0.norm1", "layers.0.norm2")
    ),
    "two-views": Case(
        TwoViews,
        lambda: (torch.randn(ROWS, 3, 6, 6), torch.randn(ROWS, 3, 6, 6)),
        layers=("input", "convs.0", "convs.1"),
    ),
    "cells-over-time": Case(CellsOverTime, rows(ROWS, 7, 5), layers=("input", "cells.0", "cells.1", "cells.2")),
    "two-heads": Case(ActorCritic, rows(ROWS, 5), layers=("input", "trunk.1", "trunk.3")),
}
