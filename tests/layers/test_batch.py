"""Where the samples are after each operation, with every dimension of the same size."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import avg_pool1d, conv2d, linear, scaled_dot_product_attention
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from mireg.layers import Taps
from mireg.layers.observe import Observer
from tests.networks import NETWORKS, ROWS

N = 4
EYE = torch.eye(N)
CONST = torch.arange(N)


def filled(x: Tensor, *, dim: int) -> Tensor:
    """The parts of x along its second dimension, written into memory along a dimension."""
    memory = torch.zeros(N, N, N)
    for index in range(N):
        memory.select(dim, index).copy_(x[:, index])
    return memory


def packed(x: Tensor, *, batch_first: bool) -> Tensor:
    sequence = pack_padded_sequence(torch.cat([x, x], 1), torch.tensor([8, 8, 7, 5]), batch_first=True)
    padded = pad_packed_sequence(sequence, batch_first=batch_first)[0]
    return padded[:, :5] if batch_first else padded[:5]


def modulated(x: Tensor) -> Tensor:
    """A convolution with a kernel for each sample, the samples being groups."""
    return conv2d(x.reshape(1, N * N, N, 1), torch.ones(N * N, N, 1, 1) / N, groups=N).view(N, N, N)


KEPT: dict[str, Callable[[Tensor], Tensor]] = {
    "as it is": lambda x: x,
    "element by element": lambda x: CONST * 0 + x.relu(),
    "broadcast": lambda x: torch.zeros(N, N, N, N) + x,
    "expand": lambda x: x.expand(N, N, N, N),
    "transpose": lambda x: x.transpose(0, 1),
    "permute": lambda x: x.permute(2, 0, 1),
    "t": lambda x: x[:, 0].t(),
    "select": lambda x: x.transpose(0, 1)[1],
    "unbind": lambda x: x.unbind(1)[2],
    "unsqueeze": lambda x: x.unsqueeze(0),
    "squeeze": lambda x: x.unsqueeze(0).squeeze(),
    "squeeze in place": lambda x: x[:, :1].clone().transpose_(0, 1).squeeze_(0),
    "slice": lambda x: x.transpose(0, 1)[1:, :, ::2],
    "split": lambda x: x.transpose(0, 1).chunk(2)[1],
    "merged, faster": lambda x: x.flatten(0, 1),
    "merged, slower": lambda x: x.transpose(0, 1).flatten(0, 1),
    "merged in the middle": lambda x: x.permute(1, 0, 2).flatten(),
    "merged and split": lambda x: x.transpose(0, 1).flatten(0, 1).unflatten(0, (N, N)),
    "merged otherwise": lambda x: x.flatten(1).t().flatten().view(N, N * N),
    "cat of views": lambda x: torch.cat([x, x.flip(1)]),
    "one view": lambda x: torch.cat([x, x])[N:],
    "every other view": lambda x: torch.stack([x, x], 1).flatten(0, 1)[::2],
    "cat of features": lambda x: torch.cat([x, x], 1),
    "stack": lambda x: torch.stack([x, x]),
    "repeat": lambda x: x.repeat(2, 1, 1),
    "repeat_interleave": lambda x: x.repeat_interleave(2, 0),
    "unfold": lambda x: x.unfold(1, 2, 2),
    "sum": lambda x: x.transpose(0, 1).mean(0),
    "max": lambda x: x.transpose(0, 1).max(0, keepdim=True).values,
    "index": lambda x: x[:, [3, 0]],
    "index of each": lambda x: x[CONST, CONST.flip(0)],
    "index before": lambda x: x.transpose(0, 1)[[1, 2, 3]],
    "mask": lambda x: x[:, CONST > 1],
    "gather": lambda x: x.gather(1, torch.zeros(N, 2, N, dtype=torch.int64)),
    "index_select": lambda x: x.index_select(2, CONST),
    "linear": lambda x: linear(x, EYE, torch.zeros(N)),
    "product from the left": lambda x: EYE @ x.transpose(0, 1),
    "product of both": lambda x: (x @ EYE) @ x.new_ones(N, N) / N,
    "einsum": lambda x: torch.einsum("nab,bc->can", x, EYE),
    "edges": lambda x: EYE @ x[:, 0],
    "attention": lambda x: scaled_dot_product_attention(x, x, x),
    "lookup": lambda x: nn.Embedding.from_pretrained(CONST[:, None].float().expand(N, N))(x.long()),
    "pool": lambda x: avg_pool1d(x, 2),
    "groups of channels": modulated,
    "memory": lambda x: filled(x, dim=1),
    "memory, batch second": lambda x: filled(x, dim=0),
    "packed": lambda x: packed(x, batch_first=True),
    "packed, batch second": lambda x: packed(x, batch_first=False),
}


@pytest.mark.parametrize("name", KEPT)
def test_the_batch_is_followed(name: str) -> None:
    """The values tell the sample, so that they must differ between the samples and agree within each."""
    x = torch.arange(N).float()[:, None, None].repeat(1, N, N)
    with Observer(nn.Identity(), (x,)) as observer:
        result = KEPT[name](x)
    batch = observer.batch(result, (0, 0))
    assert batch is not None
    split = result.unflatten(batch.dim, (batch.outer, batch.size, batch.inner)).movedim(batch.dim + 1, 0)
    assert torch.allclose(split.flatten(1), torch.arange(N).float()[:, None].expand(N, split[0].numel()))


@pytest.mark.parametrize(
    "operation",
    [
        lambda x: x.mean(0),
        lambda x: x[2],
        lambda x: x[:, 0].t() @ x[:, 1],
        lambda x: x.unfold(0, 2, 1),
        lambda x: x[x > 1],
        lambda x: x.sum(),
        lambda x: conv2d(x[None], torch.ones(N, N, 1, 1)),
    ],
)
def test_the_batch_is_gone(operation: Callable[[Tensor], Tensor]) -> None:
    x = torch.randn(N, N, N)
    with Observer(nn.Identity(), (x,)) as observer:
        result = operation(x)
    assert observer.batch(result, (0, 0)) is None


def test_fewer_and_other_samples() -> None:
    x, other = torch.randn(8, N), torch.randn(6, N)
    with Observer(nn.Identity(), (x, other)) as observer:
        half, joined, groups, moved = x[:4], torch.cat([x, other]), x.view(4, 2, N), x[torch.randperm(8)]
    assert observer.batch(half, (0, 0)) == (0, 4, 1, 1)
    assert observer.batch(joined, (0, 0)) == observer.batch(joined, (1, 0)) == (0, 14, 1, 1)
    assert observer.batch(groups, (0, 0)) == (0, 4, 1, 1)
    assert observer.batch(moved, (0, 0)) == (0, 8, 1, 1)


@pytest.mark.parametrize(
    "name", ["variables-in-the-batch", "two-views", "cells-over-time", "transformer-encoder-sequence-first", "gpt2"]
)
def test_a_sample_acts_on_its_own_row_alone(name: str) -> None:
    """With as many samples as channels or steps."""
    case = NETWORKS[name]
    net = case.make().eval()
    args, kwargs = case.args(), case.kwargs()
    if name == "transformer-encoder-sequence-first":
        args = (torch.randn(ROWS, ROWS, 16),)
    taps = Taps(net)
    before = taps.run(*args, **kwargs)[1]
    dim = 1 if "sequence-first" in name else 0

    def changed(value: Any) -> Any:
        value = value.clone()
        row = value.select(dim, 2)
        row.copy_((row + 1) % 40 if not value.is_floating_point() else row + 1)
        return value

    if "labels" in kwargs:
        kwargs = {**kwargs, "input_ids": changed(kwargs["input_ids"])}
    after = taps.run(*map(changed, args), **kwargs)[1]
    assert list(after) == list(before) == taps.chain
    for key, layer in after.items():
        rows = (layer != before[key]).flatten(1).any(1)
        assert rows.tolist() == [row == 2 for row in range(ROWS)], key


@pytest.mark.parametrize("sparse", [False, True])
def test_edges_of_a_graph_keep_the_nodes_as_rows(sparse: bool) -> None:
    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])

        def forward(self, x: Tensor, edges: Tensor) -> Tensor:
            for layer in self.layers:
                x = torch.relu(torch.sparse.mm(edges, layer(x)) if sparse else edges @ layer(x))
            return x

    edges = torch.eye(7)
    taps = Taps(Graph())
    layers = taps.run(torch.randn(7, 5), edges.to_sparse() if sparse else edges)[1]
    assert len(layers) == 3
    assert all(layer.shape == (7, 5) for layer in layers.values())


@pytest.mark.parametrize("edges", [500, 4 * 128])
@pytest.mark.parametrize("scatter", [False, True])
def test_messages_keep_the_nodes_as_rows(scatter: bool, edges: int) -> None:
    class Messages(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layers = nn.ModuleList([nn.Linear(5, 5) for _ in range(3)])

        def forward(self, x: Tensor, ends: Tensor) -> Tensor:
            for layer in self.layers:
                sent, nobody = layer(x)[ends[0]], torch.zeros_like(x)
                if scatter:
                    x = nobody.scatter_add(0, ends[1, :, None].expand_as(sent), sent).tanh()
                else:
                    x = nobody.index_add_(0, ends[1], sent).tanh()
            return x

    layers = Taps(Messages()).run(torch.randn(128, 5), torch.randint(128, (2, edges)))[1]
    assert len(layers) == 3
    assert all(layer.shape == (128, 5) for layer in layers.values())
