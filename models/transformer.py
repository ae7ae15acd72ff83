"""Transformer encoder of PyTorch's own layers, on patches of an image."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from .parts import check_dropout, check_heads, check_images, check_size
from .vit import Mean, Tokens


def transformer(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 16,
    width: int = 64,
    heads: int = 4,
    patch: int = 7,
    dropout: float = 0.1,
    norm_first: bool = False,
) -> nn.Module:
    """Patches with learned positions, an ``nn.TransformerEncoder``, the mean over tokens and a linear head.

    The layers are ``nn.TransformerEncoderLayer`` with its defaults, ReLU and normalisation after each addition, except
    for their width. As ``nn.TransformerEncoder`` copies one layer, all layers start with the same weights.

    Args:
        input_shape: (channels, height, width) of one sample.
        classes: outputs of the head.
        depth: encoder layers.
        width: features per token; the layers have 4 times as many inside.
        heads: attention heads, which split the width.
        patch: side of a patch; rows and columns beyond a multiple of it are ignored.
        dropout: dropout inside the layers.
        norm_first: normalise before attention and before the MLP, and once more at the end.

    Source: Vaswani et al., Attention is all you need, NeurIPS 2017; for ``norm_first`` Xiong et al., On layer
    normalization in the transformer architecture, ICML 2020.
    """
    check_size(depth=depth, width=width, heads=heads, patch=patch)
    check_dropout(dropout)
    check_heads(heads, width)
    check_images("transformer", input_shape)
    channels, height, columns = input_shape
    check_size(**{"height // patch": height // patch, "width // patch": columns // patch})
    layer = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout, batch_first=True, norm_first=norm_first)
    norm = nn.LayerNorm(width) if norm_first else None
    return nn.Sequential(
        OrderedDict(
            patches=nn.Conv2d(channels, width, patch, patch),
            tokens=Tokens((height // patch) * (columns // patch), width),
            encoder=nn.TransformerEncoder(layer, depth, norm, enable_nested_tensor=False),
            pool=Mean(),
            head=nn.Linear(width, classes),
        )
    )
