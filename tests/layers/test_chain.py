"""Which layers ``"auto"`` finds: from which input, towards which result, and why none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from mireg.layers import Taps
from tests.networks import NETWORKS

X = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))


def classifier_output(hidden: list[Tensor], logits: Tensor) -> Any:
    outputs = pytest.importorskip("transformers.modeling_outputs")
    return outputs.SequenceClassifierOutput(logits=logits, hidden_states=tuple(hidden))


class Net(nn.Module):
    """Three hidden layers, and whatever ``forward`` makes of them."""

    def __init__(self, forward: Callable[..., Any]) -> None:
        super().__init__()
        self.a, self.b, self.c, self.head = (nn.Linear(4, 4) for _ in range(4))
        self.compute = forward

    def forward(self, *args: Any) -> Any:
        return self.compute(self, *args)

    def hidden(self, x: Tensor) -> list[Tensor]:
        a = self.a(x).tanh()
        b = self.b(a).tanh()
        return [a, b, self.c(b).tanh()]


def found(forward: Callable[..., Any], *args: Any) -> dict[str, Tensor]:
    taps = Taps(Net(forward))
    first, second = taps.run(*args)[1], taps.run(*args)[1]
    assert list(first) == list(second) == taps.chain
    assert bool(first) == (not taps.reason)
    return first


@dataclass
class Result:
    hidden: Tensor
    scores: Tensor


class TestEnd:
    """The chain ends at the result that lies furthest along."""

    @pytest.mark.parametrize(
        "wrapped",
        [
            lambda hidden, logits: {"features": hidden, "logits": logits},
            lambda hidden, logits: (hidden[0], logits, hidden[1]),
            lambda hidden, logits: [logits, logits.softmax(1), hidden[0]],
            lambda hidden, logits: Result(hidden[0], logits),
            classifier_output,
            lambda hidden, logits: (logits.square().mean(), logits),
        ],
    )
    def test_features_beside_the_logits(self, wrapped: Callable[..., Any]) -> None:
        def forward(net: Net, x: Tensor) -> Any:
            hidden = net.hidden(x)
            return wrapped(hidden, net.head(hidden[-1]))

        assert list(found(forward, X)) == ["input", "a", "b", "c"]

    def test_a_loss_where_there_is_nothing_else(self) -> None:
        assert list(found(lambda net, x: net.head(net.hidden(x)[-1]).mean(), X)) == ["input", "a", "b", "c"]

    def test_a_head_early_on(self) -> None:
        def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
            a = net.a(x).tanh()
            return net.head(net.b(a).tanh()), net.c(a)

        assert list(found(forward, X)) == ["input", "a", "b"]


class TestStart:
    """The chain starts at the input that most of the network works on."""

    def test_what_joins_is_no_path_round_a_layer(self) -> None:
        def forward(net: Net, time: Tensor, x: Tensor) -> Tensor:
            time = net.c(time)
            return net.head((net.b((net.a(x) + time).tanh()) * time).tanh())

        for args in ((X, torch.randn(6, 3, 4)), (X[:, :1].expand(6, 4), torch.randn(6, 3, 4))):
            layers = found(lambda net, t, x: forward(net, t[:, None], x), *args)
            assert list(layers) == ["input", "a", "b"]
            assert layers["input"].shape == (6, 4, 3)

    def test_the_input_is_the_one_of_the_chain_in_later_passes(self) -> None:
        case = NETWORKS["denoising-u-net"]
        taps = Taps(case.make())
        taps.run(*case.args())
        time, image = case.args()
        assert torch.equal(taps.run(time, image)[1]["input"], image)

    def test_an_input_that_is_given_twice(self) -> None:
        layers = found(lambda net, x, same: net.head(net.hidden(x)[-1] + same), X, X)
        assert list(layers) == ["input", "c"]  # the second time, it is a path round a and b, up to the sum
        assert list(found(lambda net, x, same: net.head(net.hidden(x)[-1]), X, X)) == ["input", "a", "b", "c"]

    def test_an_input_that_the_network_overwrites(self) -> None:
        taps, x = Taps(Net(lambda net, x: net.head(net.hidden(x.sub_(1))[-1]))), X.clone()
        assert torch.equal(taps.run(x)[1]["input"], X - 1)  # there was nothing to copy it yet
        assert torch.equal(taps.run(x)[1]["input"], X - 1)


class TestPaths:
    def test_a_part_is_no_layer(self) -> None:
        """Half of a tensor, taken by a module, while the other half runs round it."""

        def forward(net: Net, x: Tensor) -> Tensor:
            left, right = torch.cat([net.a(x), net.b(x)], 1).tanh().chunk(2, 1)
            return net.head(net.c(left) + right)

        assert list(found(forward, X)) == ["input", "c"]  # the sum, where both halves are

    def test_memory_that_is_filled_in_place(self) -> None:
        def forward(net: Net, x: Tensor) -> Tensor:
            both = torch.zeros(6, 2, 4)
            both[:, 0], both[:, 1] = net.a(x), net.b(x)
            return net.head(both.tanh())

        layers = found(forward, X)
        assert {key: tuple(layer.shape[1:]) for key, layer in layers.items()} == {"input": (4,), "b": (4, 2)}

    def test_what_is_overwritten_through_a_view_is_copied(self) -> None:
        def forward(net: Net, x: Tensor) -> Tensor:
            a = net.a(x)
            out = net.b(a)
            a.view(-1).zero_()
            return net.head(out.tanh())

        net = Net(forward)
        taps = Taps(net)
        with torch.no_grad():
            taps.run(X)
            assert torch.equal(taps.run(X)[1]["a"], net.a(X))

    def test_names_that_the_network_has_itself(self) -> None:
        class Named(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.input, self.output, self.head = nn.Linear(4, 8), nn.Linear(8, 8), nn.Linear(8, 2)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.output(self.input(x).tanh()).tanh())

        shapes = {key: layer.shape[1] for key, layer in Taps(Named()).run(X)[1].items()}
        assert shapes == {"input": 4, "input (module)": 8, "output": 8}

    def test_weights_outside_modules(self) -> None:
        def forward(net: Net, x: Tensor) -> Tensor:
            return net.head(linear(linear(x, net.a.weight).tanh(), net.b.weight).tanh())

        assert list(found(forward, X)) == ["input", "head (input)"]

    def test_complex_weights(self) -> None:
        class Complex(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.w = nn.ParameterList(nn.Parameter(torch.randn(4, 4, dtype=torch.cfloat)) for _ in range(3))
                self.act, self.head = nn.Tanh(), nn.Linear(4, 2)

            def forward(self, x: Tensor) -> Tensor:
                for w in self.w:
                    x = self.act((x.to(torch.cfloat) @ w).real)
                return self.head(x)

        assert list(Taps(Complex()).run(X)[1]) == ["input", "act", "act#2", "act#3"]


class TestNoChain:
    @pytest.mark.parametrize(
        ("forward", "args", "reason"),
        [
            (lambda net, x: x + net.b(net.a(x).tanh()), (X,), "a path runs round every inner module"),
            (lambda net, x: torch.ones(6, 4) @ net.a.weight, (X,), "no tensor that depends on its input"),
            (lambda net, x: "nothing", (X,), "no floating-point tensor"),
            (lambda net: net.a.weight, (), "takes no tensor"),
            (lambda net, x: linear(linear(x, net.a.weight), net.b.weight), (X,), "no module takes or puts out"),
            (lambda net, x: (net.head(net.hidden(x)[-1]), net.head(x)), (X[0],), "a single sample and no batch"),
            (lambda net, xs: net.head(net.a(torch.stack(xs)).tanh()).mean(), (list(X[:3]),), "a single sample"),
            (
                lambda net, x: net.head(net.a(x.flatten(0, 1))).view(6, 2, 4),
                (X.view(6, 2, 2).repeat(1, 1, 2),),
                "no hidden layer has the samples",
            ),
        ],
    )
    def test_reason(self, forward: Callable[..., Any], args: tuple[Any, ...], reason: str) -> None:
        taps = Taps(Net(forward))
        assert taps.run(*args)[1] == {}
        assert reason in taps.reason

    @pytest.mark.parametrize("every_step", [False, True])
    def test_recurrent_cells(self, every_step: bool) -> None:
        """Of the states over time, only the last one is passed by nothing, and only where nothing else is read."""

        class Cells(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two, self.head = nn.LSTMCell(1, 5), nn.LSTMCell(5, 5), nn.Linear(5, 1)

            def forward(self, x: Tensor) -> Tensor:
                one = two = torch.zeros(len(x), 5), torch.zeros(len(x), 5)
                outputs = []
                for step in x.split(1, 1):
                    one = self.one(step, one)
                    two = self.two(one[0], two)
                    outputs.append(self.head(two[0]))
                return torch.cat(outputs, 1) if every_step else outputs[-1]

        taps = Taps(Cells())
        assert list(taps.run(X)[1]) == ([] if every_step else ["input", "two#4"])
        assert taps.reason == ("a path runs round every inner module" if every_step else "")
