"""What one observed pass finds."""

from __future__ import annotations

import torch
from torch import nn

from mireg.layers import Taps
from tests.networks import NETWORKS


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
        assert shapes("lstm-sequence-first") == {"input": (5, 7), "rnn": (8,)}

    def test_a_sequence_as_long_as_the_batch(self) -> None:
        taps = Taps(nn.TransformerEncoder(nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False))
        x = torch.randn(6, 6, 4)
        assert torch.equal(taps.run(x)[1]["input"], x.permute(1, 2, 0))

    def test_convolution_over_time(self) -> None:
        assert shapes("conv1d") == {"input": (2, 7), "1": (8, 5), "4": (24,)}

    def test_tokens(self) -> None:
        assert shapes("timm-vit")["blocks.0"] == (192, 5)
