"""Names and patterns, and where samples and channels are in an output."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence

from mireg.layers import Layout, first_float, match, read, tensors_in
from mireg.taps import Taps
from tests.networks import NETWORKS


class Blocks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4) for _ in range(3)])
        self.head = nn.Sequential(nn.ReLU(), nn.Linear(4, 2))

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return self.head(x)


class TestMatch:
    @pytest.mark.parametrize(
        ("spec", "names"),
        [
            ("head", ["head"]),
            ("blocks*", ["blocks.0", "blocks.1", "blocks.2"]),  # a ModuleList never runs
            (nn.Linear, ["blocks.0", "blocks.1", "blocks.2", "head.1"]),
            (lambda name, module: name.endswith(".1"), ["blocks.1", "head.1"]),
            (["head.0", "blocks.0"], ["blocks.0", "head.0"]),
        ],
    )
    def test_selects(self, spec: object, names: list[str]) -> None:
        assert match(Blocks(), spec) == names

    @pytest.mark.parametrize("spec", ["block", nn.Conv2d, ["head", "nope*"]])
    def test_nothing_selected(self, spec: object) -> None:
        with pytest.raises(ValueError, match=r"matches no module of Blocks: it has blocks\.0"):
            match(Blocks(), spec)

    def test_no_specification(self) -> None:
        with pytest.raises(TypeError, match="layers=3: give 'auto'"):
            match(Blocks(), 3)


class TestValues:
    def test_tensors_in_nested_values(self) -> None:
        @dataclass
        class Output:
            a: Tensor
            b: tuple[Tensor, dict[str, Tensor]]

        tensors = [torch.tensor(i) for i in range(3)]
        assert list(tensors_in(Output(tensors[0], (tensors[1], {"k": tensors[2]})))) == tensors
        assert first_float((torch.tensor(1), None, torch.tensor(2.0))) == 2.0

    def test_layout(self) -> None:
        assert Layout(batch=1, channels=2).arrange(torch.zeros(7, 6, 5)).shape == (6, 5, 7)
        assert Layout(batch=0, channels=3).arrange(torch.zeros(6, 2, 3, 5)).shape == (6, 5, 2, 3)
        assert Layout(batch=0, channels=1).arrange(torch.zeros(6, 5)).shape == (6, 5)

    @pytest.mark.parametrize("cell", [nn.RNN, nn.GRU, nn.LSTM])
    @pytest.mark.parametrize("bidirectional", [False, True])
    def test_final_states_of_recurrent_layers(self, cell: type[nn.RNNBase], bidirectional: bool) -> None:
        rnn = cell(3, 4, num_layers=2, bidirectional=bidirectional)
        rows = [torch.randn(length, 3) for length in (5, 4, 2)]
        output = rnn(pack_sequence(rows))
        states = read("rnn", rnn, output)
        assert list(states) == ["rnn[0]", "rnn[1]"]
        alone, _ = rnn(rows[1])
        assert states["rnn[1]"].shape == (3, 8 if bidirectional else 4)
        torch.testing.assert_close(states["rnn[1]"][1, :4], alone[-1, :4])  # forward direction, last step


def shapes(name: str) -> dict[str, tuple[int, ...]]:
    case = NETWORKS[name]
    return {key: tuple(t.shape[1:]) for key, t in Taps(case.make()).run(*case.args(), **case.kwargs())[1].items()}


class TestPlaces:
    """(channels, positions ...) of every layer, the samples apart."""

    def test_channels_last_maps(self) -> None:
        found = shapes("swin_t")
        assert found["input"] == (3, 64, 64)
        assert found["features.1.0"] == (96, 16, 16)
        assert found["features.3.0"] == (192, 8, 8)

    def test_sequences_first(self) -> None:
        assert set(shapes("transformer-encoder-sequence-first").values()) == {(16, 7)}
        assert shapes("lstm-sequence-first") == {"input": (5, 7), "rnn": (8,), "head": (3,)}

    def test_a_sequence_as_long_as_the_batch(self) -> None:
        taps = Taps(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False))
        x = torch.randn(6, 6, 4)
        assert torch.equal(taps.run(x)[1]["input"], x.permute(1, 2, 0))

    def test_convolution_over_time(self) -> None:
        assert shapes("conv1d") == {"input": (2, 7), "1": (8, 5), "4": (24,)}

    def test_tokens(self) -> None:
        assert shapes("timm-vit")["blocks.0"] == (192, 5)
