"""The tensors inside what modules take and put out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from mireg.layers import tensors_in
from mireg.layers.values import floats_in, read


def test_tensors_in_nested_values() -> None:
    @dataclass
    class Output:
        a: Tensor
        b: tuple[Tensor, dict[str, Tensor]]

    tensors = [torch.tensor(i) for i in range(3)]
    assert list(tensors_in(Output(tensors[0], (tensors[1], {"k": tensors[2]})))) == tensors
    assert floats_in((torch.tensor(1), None, torch.tensor(2.0))) == [2.0]


def test_a_dataclass_that_refers_to_itself_and_has_no_value_yet() -> None:
    @dataclass
    class Node:
        x: Tensor
        parts: list[Node]
        cache: Tensor = field(init=False)

    node = Node(torch.zeros(1), [])
    node.parts += [Node(torch.ones(1), [node]), node]
    assert tensors_in(node) == [0, 1]


@pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_final_states_of_recurrent_layers(cell: Callable[..., nn.RNNBase], bidirectional: bool) -> None:
    rnn = cell(3, 4, num_layers=2, bidirectional=bidirectional)
    rows = [torch.randn(length, 3) for length in (5, 4, 2)]
    output = rnn(pack_sequence(rows))
    states = read(rnn, output)
    assert len(states) == 2
    alone, _ = rnn(rows[1])
    assert states[1].shape == (3, 8 if bidirectional else 4)
    torch.testing.assert_close(states[1][1, :4], alone[-1, :4])  # forward direction, last step


class LastOutput(nn.LSTM):
    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        return super().forward(x)[0][:, -1]


class Outputs(nn.GRU):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        output = super().forward(x)[0]
        return output, output[:, -1]


@pytest.mark.parametrize("cell", [LastOutput, Outputs])
def test_a_recurrent_module_that_returns_no_state(cell: Callable[..., nn.RNNBase]) -> None:
    rnn = cell(3, 4, num_layers=2, batch_first=True)
    output = rnn(torch.randn(7, 5, 3))
    (found,) = read(rnn, output)
    assert found is floats_in(output)[0]


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.filterwarnings("ignore:Sparse CSR")
def test_sparse_and_nested_tensors_are_left_out() -> None:
    dense = torch.eye(3)
    nested = torch.nested.nested_tensor([dense, dense[:2]])
    assert floats_in((dense.to_sparse(), dense.to_sparse_csr(), nested, dense)) == [dense]
