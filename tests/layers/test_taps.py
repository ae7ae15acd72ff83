"""What is caught, and what is said where nothing can be."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from mireg.layers import Taps
from tests.networks import NETWORKS


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.head, self.unused = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2), nn.Linear(4, 4)
        self.times = 2

    def forward(self, x: Tensor) -> Tensor:
        x = self.a(x).relu()
        for _ in range(self.times):
            x = self.b(x).relu()
        return self.head(x)


@pytest.mark.parametrize("layers", ["auto", ["input", "a", "b"]])
def test_the_tapped_pass_finds_what_the_observed_one_did(layers: object) -> None:
    taps, x = Taps(Net(), layers), torch.randn(6, 4)
    first, second = taps.run(x), taps.run(x)
    assert torch.equal(first[0], second[0])
    assert list(first[1]) == list(second[1]) == taps.chain == ["input", "a", "b", "b#2"]
    assert all(torch.equal(first[1][name], second[1][name]) for name in taps.chain)


def test_batches_of_another_size() -> None:
    case = NETWORKS["transformer-encoder-sequence-first"]
    taps = Taps(case.make())
    taps.run(*case.args())
    assert all(layer.shape[0] == 3 for layer in taps.run(torch.randn(7, 3, 16))[1].values())


def test_an_overwritten_output_is_copied() -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    taps, x = Taps(net, ["0", "1"]), torch.randn(6, 4)
    taps.run(x)
    caught = taps.run(x)[1]
    assert torch.equal(caught["0"], net[0](x))
    assert torch.equal(caught["1"], net[0](x).relu())


def test_the_input_may_be_a_keyword() -> None:
    x = torch.randn(6, 4)
    assert torch.equal(Taps(Net()).run(x=x)[1]["input"], x)


def test_remove() -> None:
    net = Net()
    taps = Taps(net)
    taps.run(torch.randn(6, 4))
    taps.remove()
    assert not any(m._forward_hooks for m in net.modules())


class TestErrors:
    def test_too_few_layers(self) -> None:
        with pytest.raises(ValueError, match=r"layers='a' selects 1 layer \(a\)"):
            Taps(Net(), "a")

    def test_a_layer_that_never_runs(self) -> None:
        with pytest.raises(ValueError, match="layers unused did not run"):
            Taps(Net(), ["a", "unused"]).run(torch.randn(6, 4))

    def test_rows_that_are_no_samples(self) -> None:
        class Flat(Net):
            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.b(self.a(x).flatten(0, 1)).view(*x.shape)).mean(1)

        with pytest.raises(ValueError, match=r"layer 'b' puts out \(18, 4\).*rows of a layer must be samples"):
            Taps(Flat(), ["a", "b"]).run(torch.randn(6, 3, 4))
        caught = Taps(Flat()).run(torch.randn(6, 3, 4))[1]
        assert {key: tuple(layer.shape) for key, layer in caught.items()}["b"] == (6, 4, 3)  # where head takes it
