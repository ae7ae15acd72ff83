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
            first = net.b(net.a(x).tanh()).tanh()
            return net.head(net.hidden(first)[-1]), net.c(first)

        assert list(found(forward, X)) == ["input", "a", "b", "a#2", "b#2", "c"]

    def test_where_heads_part(self) -> None:
        def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
            a = net.a(x).tanh()
            return net.head(net.b(a).tanh()), net.c(a)

        assert list(found(forward, X)) == ["input", "a"]

    def test_networks_that_share_only_the_input(self) -> None:
        def forward(net: Net, x: Tensor) -> tuple[Tensor, Tensor]:
            return net.head(net.b(net.a(x).tanh()).tanh()), net.c(x)

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

    @pytest.mark.parametrize("size", [3, 6, 20])
    def test_a_query_and_not_what_it_is_compared_with(self, size: int) -> None:
        layers = found(lambda net, support, x: net.hidden(x)[-1] @ net.hidden(support)[-1].T, torch.randn(size, 4), X)
        assert torch.equal(layers["input"], X)
        assert {len(layer) for layer in layers.values()} == {6}

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
            (lambda net, x: linear(linear(x, net.a.weight), net.b.weight), (X,), "no module receives or returns"),
            (lambda net, x: (net.head(net.hidden(x)[-1]), net.head(x)), (X[0],), "a single sample and no batch"),
            (lambda net, xs: net.head(net.a(torch.stack(xs)).tanh()).mean(), (list(X[:3]),), "a single sample"),
            (lambda net, x: net.head(net.a(x.mean(0, keepdim=True)).tanh()), (X,), "no hidden layer has the samples"),
        ],
    )
    def test_reason(self, forward: Callable[..., Any], args: tuple[Any, ...], reason: str) -> None:
        taps = Taps(Net(forward))
        assert taps.run(*args)[1] == {}
        assert reason in taps.reason


class Leaky(nn.Module):
    """A spiking neuron that keeps its membrane potential, or gets and returns it."""

    def __init__(self) -> None:
        super().__init__()
        self.potential: Tensor | float = 0.0

    def forward(self, current: Tensor, potential: Tensor | float | None = None) -> Any:
        before = self.potential if potential is None else potential
        self.potential = 0.9 * before + current
        spikes = (4 * (self.potential - 1)).sigmoid()
        return spikes if potential is None else (spikes, self.potential)


class Spiking(nn.Module):
    def __init__(self, *, keeps: bool, layer_by_layer: bool = False) -> None:
        super().__init__()
        self.weights = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.neurons: Any = nn.ModuleList(Leaky() for _ in range(3))
        self.head = nn.Linear(4, 2)
        self.keeps, self.layer_by_layer = keeps, layer_by_layer
        self.last: list[Tensor] = []

    def forward(self, steps: Tensor) -> Tensor:
        """For steps (steps, samples, features)."""
        state: list[Any] = [0.0] * 3
        for neuron in self.neurons:
            neuron.potential = 0.0
        if self.layer_by_layer:
            sequence = list(steps)
            for weight, neuron in zip(self.weights, self.neurons, strict=True):
                sequence = [neuron(weight(x)) for x in sequence]
            return torch.stack([self.head(x) for x in sequence]).mean(0)
        total = torch.zeros(steps.shape[1], 2)
        for x in steps:
            self.last = []
            for index, (weight, neuron) in enumerate(zip(self.weights, self.neurons, strict=True)):
                if self.keeps:
                    x = neuron(weight(x))
                else:
                    x, state[index] = neuron(weight(x), state[index])
                self.last.append(x)
            total = total + self.head(x)
        return total / len(steps)


class TestLoops:
    """Of a loop over time, the last step is the chain."""

    @pytest.mark.parametrize("keeps", [False, True])
    def test_spiking_neurons(self, keeps: bool) -> None:
        net = Spiking(keeps=keeps)
        taps = Taps(net)
        for steps in (6, 6, 4, 9):  # as many steps as samples, and others
            x = torch.rand(steps, 6, 4)
            layers = taps.run(x)[1]
            assert list(layers) == ["input", "neurons.0", "neurons.1", "neurons.2"]
            assert torch.equal(layers["input"], x.permute(1, 2, 0))
            assert all(torch.equal(layers[f"neurons.{k}"], net.last[k]) for k in range(3))
        assert taps._observed == 1

    def test_layer_by_layer(self) -> None:
        layers = Taps(Spiking(keeps=True, layer_by_layer=True)).run(torch.rand(5, 6, 4))[1]
        assert list(layers) == ["input", "neurons.0", "neurons.1", "neurons.2"]

    def test_named_layers_are_those_of_every_step(self) -> None:
        layers = Taps(Spiking(keeps=True), ["neurons.*"]).run(torch.rand(2, 6, 4))[1]
        assert list(layers) == ["neurons.0", "neurons.1", "neurons.2", "neurons.0#2", "neurons.1#2", "neurons.2#2"]
        assert all(layer.shape == (6, 4) for layer in layers.values())

    @pytest.mark.parametrize(
        "first",
        [
            lambda x: torch.zeros(len(x), 5),
            lambda x: x.new_zeros(len(x), 5),
            lambda x: torch.zeros_like(x[:, :1]).repeat(1, 5),
        ],
    )
    @pytest.mark.parametrize("every_step", [False, True])
    def test_recurrent_cells(self, every_step: bool, first: Callable[..., Tensor]) -> None:
        class Cells(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.one, self.two, self.head = nn.LSTMCell(1, 5), nn.LSTMCell(5, 5), nn.Linear(5, 1)

            def forward(self, x: Tensor) -> Tensor:
                one = two = first(x), first(x)
                outputs = []
                for step in x.split(1, 1):
                    one = self.one(step, one)
                    two = self.two(one[0], two)
                    outputs.append(self.head(two[0]))
                return torch.cat(outputs, 1) if every_step else outputs[-1]

        assert list(Taps(Cells()).run(X)[1]) == ["input", "one", "two"]

    def test_a_block_repeated_in_depth_is_a_layer_each_time(self) -> None:
        def forward(net: Net, x: Tensor) -> Tensor:
            for _ in range(3):
                x = net.b(net.a(x).tanh()).tanh()
            return net.head(x)

        assert list(found(forward, X)) == ["input", "a", "b", "a#2", "b#2", "a#3", "b#3"]
