"""Small language model."""

from __future__ import annotations

import math

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

from .parts import check_heads, check_size


def gpt(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 4,
    width: int = 128,
    heads: int = 4,
    context: int = 64,
) -> nn.Module:
    """Decoder-only transformer: (n, tokens) int64 to (n, tokens, vocabulary) logits of the next token.

    Args:
        input_shape: (tokens,) of one sample, at most ``context``.
        classes: size of the vocabulary.
        depth: transformer blocks.
        width: features per token.
        heads: attention heads, which split the width.
        context: maximum number of positions.

    Source: Radford et al., Language models are unsupervised multitask learners, 2019, including the initialisation.
    """
    check_size(depth=depth, width=width, heads=heads, context=context)
    if len(input_shape) != 1:
        raise ValueError(f"a gpt needs samples of shape (tokens,), not {input_shape}")
    if input_shape[0] > context:
        raise ValueError(f"context={context}: must be at least the {input_shape[0]} tokens of a sample")
    check_heads(heads, width)
    return GPT(classes, depth, width, heads, context)


class GPT(nn.Module):
    """Token and position embeddings, pre-norm blocks, and a head that shares the token embedding's weight."""

    def __init__(self, vocabulary: int, depth: int, width: int, heads: int, context: int) -> None:
        super().__init__()
        self.tokens = nn.Embedding(vocabulary, width)
        self.positions = nn.Embedding(context, width)
        self.layers = nn.Sequential(*(Block(width, heads) for _ in range(depth)))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        for name, weight in self.named_parameters():
            if name.endswith("out.weight"):  # these add to the residual stream, two per block
                nn.init.normal_(weight, std=0.02 / math.sqrt(2 * depth))
        self.head.weight = self.tokens.weight

    def forward(self, x: Tensor) -> Tensor:
        places = torch.arange(x.shape[1], device=x.device)
        hidden = self.layers(self.tokens(x) + self.positions(places))
        return self.head(self.norm(hidden))


class Block(nn.Module):
    """Causal self-attention and an MLP, each added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, heads)
        self.mlp_norm = nn.LayerNorm(width)
        self.mlp = MLP(width)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(self.attention_norm(x))
        return x + self.mlp(self.mlp_norm(x))


class Attention(nn.Module):
    """Causal self-attention."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        q, k, v = rearrange(self.qkv(x), "n t (three h c) -> three n h t c", three=3, h=self.heads)
        mixed = scaled_dot_product_attention(q, k, v, is_causal=True)
        return self.out(rearrange(mixed, "n h t c -> n t (h c)"))


class MLP(nn.Module):
    """Two linear layers with a GELU between them and four times the width inside."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.inner = nn.Linear(width, 4 * width)
        self.activation = nn.GELU()
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.activation(self.inner(x)))
