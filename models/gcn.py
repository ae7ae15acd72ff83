"""Graph convolutional network."""

from __future__ import annotations

import math

from torch import Tensor, nn
from torch.nn.functional import dropout as drop

from .parts import check_dropout, check_size

ALPHA, LAMBDA = 0.1, 0.5
"""GCNII's share of the initial features, and how fast its layers tend to the identity with depth."""


def gcn(
    input_shape: tuple[int, ...],
    classes: int,
    *,
    depth: int = 8,
    width: int = 64,
    dropout: float = 0.5,
    residual: bool = False,
    pairnorm: bool = False,
) -> nn.Module:
    """``depth`` graph convolutions with ReLU between them: node features and adjacency to (nodes, classes).

    Called with (nodes, features) floats and the normalised (nodes, nodes) adjacency, sparse or dense
    (:func:`mireg.ablation.data.graph_file.load_graph`). Weights start as in Glorot & Bengio (2010), biases at 0.

    Args:
        input_shape: (features,) of one node, or what data of two inputs have: ((features,), (nodes,)).
        classes: outputs of the last convolution.
        depth: graph convolutions, at least 2, with the one that gives the output.
        width: features per node between them.
        dropout: dropout before each convolution.
        residual: GCNII's initial residual and identity mapping in the layers between the first and the last.
        pairnorm: PairNorm before each ReLU, which keeps the nodes' mean squared distance constant.

    Sources: Kipf & Welling, Semi-supervised classification with graph convolutional networks, ICLR 2017; Chen et al.,
    Simple and deep graph convolutional networks, ICML 2020 (``residual``); Zhao & Akoglu, PairNorm: tackling
    oversmoothing in GNNs, ICLR 2020 (``pairnorm``).
    """
    check_size(width=width)
    if depth < 2:
        raise ValueError(f"depth={depth}: a gcn has at least 2 graph convolutions")
    check_size(depth=depth)
    check_dropout(dropout)
    if len(input_shape) == 2 and isinstance(input_shape[0], tuple):
        input_shape = input_shape[0]
    if len(input_shape) != 1:
        raise ValueError(f"a gcn needs nodes of shape (features,), not {input_shape}")
    return GCN(input_shape[0], classes, depth, width, dropout, residual, pairnorm)


class GCN(nn.Module):
    """Graph convolutions; the last one gives the output."""

    def __init__(
        self, features: int, classes: int, depth: int, width: int, dropout: float, residual: bool, pairnorm: bool
    ) -> None:
        super().__init__()
        self.dropout = dropout
        self.layers = nn.ModuleList()
        for index in range(depth - 1):
            norm = PairNorm() if pairnorm else nn.Identity()
            if residual and index:
                self.layers.append(InitialResidual(width, math.log(LAMBDA / index + 1), norm))
            else:
                self.layers.append(Hidden(width if index else features, width, norm))
        self.head = Convolution(width, classes)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        hidden, first = x, None
        for layer in self.layers:
            hidden = layer(drop(hidden, self.dropout, self.training), adjacency, first)
            first = hidden if first is None else first
        output: Tensor = self.head(drop(hidden, self.dropout, self.training), adjacency)
        return output


class Convolution(nn.Module):
    """A linear map of every node, then a weighted mean over its neighbours."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, outputs)
        nn.init.xavier_uniform_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)

    def forward(self, x: Tensor, adjacency: Tensor) -> Tensor:
        return adjacency @ self.linear(x)


class Hidden(nn.Module):
    """A graph convolution and ReLU."""

    def __init__(self, inputs: int, outputs: int, norm: nn.Module) -> None:
        super().__init__()
        self.convolution = Convolution(inputs, outputs)
        self.norm = norm
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, adjacency: Tensor, first: Tensor | None) -> Tensor:
        output: Tensor = self.activation(self.norm(self.convolution(x, adjacency)))
        return output


class InitialResidual(nn.Module):
    """GCNII's layer: a share of the first layer's output is added, and the linear map is close to the identity."""

    def __init__(self, width: int, beta: float, norm: nn.Module) -> None:
        super().__init__()
        self.linear = nn.Linear(width, width, bias=False)
        nn.init.xavier_uniform_(self.linear.weight)
        self.beta = beta
        self.norm = norm
        self.activation = nn.ReLU()

    def forward(self, x: Tensor, adjacency: Tensor, first: Tensor) -> Tensor:
        mixed = (1 - ALPHA) * (adjacency @ x) + ALPHA * first
        output: Tensor = self.activation(self.norm((1 - self.beta) * mixed + self.beta * self.linear(mixed)))
        return output


class PairNorm(nn.Module):
    """Centres the nodes and scales them to a mean squared norm of 1."""

    def forward(self, x: Tensor) -> Tensor:
        centred = x - x.mean(0)
        return centred / (centred.square().sum(1).mean() + 1e-6).sqrt()
