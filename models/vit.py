"""Small vision transformer."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from .parts import check_heads, check_images, check_size


def vit(
    input_shape: tuple[int, ...], classes: int, *, depth: int = 4, width: int = 64, heads: int = 4, patch: int = 4
) -> nn.Module:
    """Patches with learned positions, ``depth`` pre-norm transformer blocks, the mean over tokens and a linear head.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.
        depth: transformer blocks.
        width: features per token.
        heads: attention heads, which split the width.
        patch: side of a patch; rows and columns beyond a multiple of it are ignored.

    Source: Dosovitskiy et al., An image is worth 16x16 words, ICLR 2021.
    """
    check_size(depth=depth, width=width, heads=heads, patch=patch)
    check_images("vit", input_shape)
    channels, height, columns = input_shape
    check_size(**{"height // patch": height // patch, "width // patch": columns // patch})
    check_heads(heads, width)
    blocks = [
        nn.TransformerEncoderLayer(
            width, heads, 4 * width, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
        )
        for _ in range(depth)
    ]
    return nn.Sequential(
        OrderedDict(
            patches=nn.Conv2d(channels, width, patch, patch),
            tokens=Tokens((height // patch) * (columns // patch), width),
            layers=nn.Sequential(*blocks),
            norm=nn.LayerNorm(width),
            pool=Mean(),
            head=nn.Linear(width, classes),
        )
    )


class Tokens(nn.Module):
    """Turns maps into sequences of tokens and adds learned positions."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.position = nn.Parameter(0.02 * torch.randn(count, width))

    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).mT + self.position


class Mean(nn.Module):
    """Mean over the tokens."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean(1)
