"""What is caught in a pass, and which passes are observed."""

from __future__ import annotations

import copy
import pickle
import re
import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo import eval_frame
from torch.autograd import forward_ad
from torch.nn.functional import avg_pool1d
from torch.utils.checkpoint import checkpoint

from mireg.layers import Taps
from mireg.layers.taps import EAGER, MOST_OBSERVED
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
def test_the_tapped_pass_finds_what_the_observed_one_did(layers: Any) -> None:
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


class Recurrent(nn.Module):
    def __init__(self, cell: Callable[..., nn.Module]) -> None:
        super().__init__()
        self.rnn, self.head = cell(8, 16, 2, batch_first=True), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0][:, -1])


@pytest.mark.parametrize("cell", [nn.GRU, nn.LSTM])
def test_a_first_pass_of_one_sample_does_not_settle_the_layers(cell: Callable[..., nn.Module]) -> None:
    taps = Taps(Recurrent(cell))
    for _ in range(2):
        taps.run(torch.randn(1, 5, 8))
    assert taps._observed == 1
    for _ in range(2):
        layers = taps.run(torch.randn(32, 5, 8))[1]
        assert list(layers) == ["input", "rnn[0]", "rnn[1]"]
        assert all(len(layer) == 32 for layer in layers.values())
    assert taps._observed == 2


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 3)
        self.a, self.b, self.head = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 4)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = self.encoder(x, src_key_padding_mask=mask)[:, 0]
        return self.head(self.b(self.a(x).tanh()).tanh())


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_frozen_encoder_that_packs_its_samples() -> None:
    net = Encoder()
    net.encoder.requires_grad_(False).eval()
    mask = torch.arange(6) >= torch.tensor([3] * 16 + [6] * 16)[:, None]
    taps = Taps(net)
    for _ in range(2):
        layers = taps.run(torch.randn(32, 6, 8), mask)[1]
        assert list(layers)[-2:] == ["a", "b"]
        assert all(len(layer) == 32 for layer in layers.values())


@pytest.mark.filterwarnings("ignore:Sparse CSR")
@pytest.mark.parametrize("layout", [torch.sparse_coo, torch.sparse_csr])
def test_a_sparse_input_is_left_out(layout: torch.layout) -> None:
    class Words(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.rest = nn.Parameter(torch.randn(8, 4)), Net()

        def forward(self, x: Tensor) -> Tensor:
            return self.rest(torch.sparse.mm(x, self.weight))

    taps = Taps(Words())
    for _ in range(2):
        layers = taps.run(torch.randn(32, 8).relu().to_sparse(layout=layout))[1]
        assert "input" not in layers
        assert len(layers) > 2
        assert all(len(layer) == 32 for layer in layers.values())


def stance() -> str:
    return eval_frame._stance.stance


def test_overlapping_threads_leave_the_compiler_as_it_was() -> None:
    first_in, first_out = threading.Event(), threading.Event()

    def first() -> None:
        with EAGER:
            first_in.set()
            inside.wait(10)
        first_out.set()

    inside = threading.Event()
    thread = threading.Thread(target=first)
    thread.start()
    first_in.wait(10)
    with EAGER:
        inside.set()
        first_out.wait(10)
        assert stance() == "force_eager"
    thread.join()
    assert stance() == "default"


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


class Depth(nn.Module):
    """Runs as many of its blocks as it is told to."""

    def __init__(self, blocks: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(4, 4), nn.Sigmoid()) for _ in range(blocks))
        self.heads = nn.ModuleList(nn.Linear(4, 2) for _ in range(blocks))

    def forward(self, x: Tensor, blocks: tuple[int, ...]) -> Tensor:
        for block in blocks:
            x = self.blocks[block](x)
        return self.heads[len(blocks) - 1](x)


def layers(taps: Taps, *args: object) -> list[str]:
    return [name.removeprefix("blocks.") for name in taps.run(torch.randn(6, 4), *args)[1]]


class TestVaryingDepth:
    @pytest.mark.parametrize("first", [(0,), (0, 1)])
    def test_a_deeper_pass_is_noticed(self, first: tuple[int, ...]) -> None:
        taps = Taps(Depth())
        assert layers(taps, first) == ["input", *map(str, first)]
        assert layers(taps, (0, 1, 2, 3)) == ["input", *map(str, first)]  # what is known of it
        for _ in range(2):  # observed, tapped
            assert layers(taps, (0, 1, 2, 3)) == ["input", "0", "1", "2", "3"]
        assert layers(taps, first) == ["input", *map(str, first)]
        assert taps._observed == 2

    def test_a_network_that_has_no_chain_at_first(self) -> None:
        net = Depth()
        taps = Taps(net)
        net.forward = lambda x, blocks: net.heads[0](x) if not blocks else Depth.forward(net, x, blocks)
        assert layers(taps, ()) == []
        assert layers(taps, (0, 1)) == []
        assert layers(taps, (0, 1)) == ["input", "0", "1"]

    def test_a_module_that_runs_more_often(self) -> None:
        net = Net()
        taps = Taps(net)
        layers(taps)
        net.times = 3
        layers(taps)
        assert layers(taps) == ["input", "a", "b", "b#2", "b#3"]
        net.times = 1
        layers(taps)
        assert layers(taps) == ["input", "a", "b"]

    def test_depths_that_alternate(self) -> None:
        taps = Taps(Depth())
        for step in range(8):
            layers(taps, (0, 1) if step % 2 else (0, 1, 2))
        assert layers(taps, (0, 1)) == ["input", "0", "1"]
        assert layers(taps, (0, 1, 2)) == ["input", "0", "1", "2"]
        assert taps._observed == 3

    def test_layers_dropped_by_chance(self) -> None:
        """Few passes are observed; in the others, the layers that ran stand in their order."""
        taps, net = Taps(Depth(8)), Depth(8)
        taps.module = net
        generator = torch.Generator().manual_seed(0)
        for _ in range(60):
            blocks = tuple(int(b) for b in (torch.rand(8, generator=generator) < 0.7).nonzero()[:, 0])
            found = layers(taps, blocks)
            assert found == ["input", *sorted(found[1:])]
            assert set(found[1:]) <= set(map(str, blocks))
        assert taps._observed == MOST_OBSERVED

    def test_named_layers_that_do_not_run_every_time(self) -> None:
        taps = Taps(Depth(), ["input", "blocks.?"])
        with pytest.raises(ValueError, match=r"layers blocks\.3 did not run"):
            layers(taps, (0, 1, 2))
        assert layers(taps, (0, 1, 2, 3)) == ["input", "0", "1", "2", "3"]
        for _ in range(3):
            assert layers(taps, (0, 1)) == ["input", "0", "1"]

    def test_nothing_changes_nothing_is_observed(self) -> None:
        taps = Taps(Net())
        for _ in range(5):
            layers(taps)
        assert taps._observed == 1


@pytest.mark.parametrize("replaced", ["a", "b", "head"])
def test_a_replaced_module_is_tapped(replaced: str) -> None:
    net: Any = Net()
    net.act = nn.Tanh()
    net.forward = lambda x: net.head(net.b(net.act(net.a(x))))
    taps, x = Taps(net), torch.randn(6, 4)
    expected = list(taps.run(x)[1])
    setattr(net, replaced, nn.Linear(4, 4))
    taps.run(x)
    for _ in range(2):
        caught = taps.run(x)[1]
        assert list(caught) == expected == ["input", "act", "b"]
        assert torch.equal(caught["b"], net.b(net.act(net.a(x))))
    assert taps._observed == (1 if replaced == "a" else 2)  # a itself is not tapped, but what follows it


class TestFunctional:
    """Where no module puts out what a layer holds, the next one's input is tapped."""

    class Plain(nn.Module):
        def __init__(self, *, modules: bool) -> None:
            super().__init__()
            self.linears = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
            self.head = nn.Linear(4, 2)
            self.acts: Any = nn.ModuleList(nn.Sigmoid() for _ in range(3)) if modules else [torch.sigmoid] * 3
            self.pool = nn.AvgPool1d(2) if modules else lambda x: avg_pool1d(x, 2)

        def forward(self, x: Tensor) -> Tensor:
            for linear, act in zip(self.linears, self.acts, strict=True):
                x = act(linear(x))
            return self.head(self.pool(x))

    def test_gives_the_values_of_modules(self) -> None:
        net, twin = self.Plain(modules=False), self.Plain(modules=True)
        twin.load_state_dict(net.state_dict())
        x = torch.randn(6, 8)
        taps, theirs = Taps(net), Taps(twin).run(x)[1]
        for _ in range(2):
            ours = taps.run(x)[1]
            assert list(ours) == ["input", "linears.0", "linears.1", "linears.2"]
            assert list(theirs) == ["input", "acts.0", "acts.1", "pool"]
            assert all(torch.equal(a, b) for a, b in zip(ours.values(), theirs.values(), strict=True))

    def test_compiled(self) -> None:
        x = torch.randn(6, 8)
        net = self.Plain(modules=False)
        taps = Taps(net)
        expected = taps.run(x)[1]
        compiled = torch.compile(taps.run, backend="eager", fullgraph=True)
        caught = compiled(x)[1]
        assert all(torch.equal(caught[name], expected[name]) for name in expected)

    @pytest.mark.parametrize("use_reentrant", [False, True])
    def test_recomputation_is_not_captured(self, use_reentrant: bool) -> None:
        torch.manual_seed(0)
        net: Any = self.Plain(modules=False)
        taps, x = Taps(net, "auto"), torch.randn(6, 8, requires_grad=True)
        forward = net.forward
        plain = taps.run(x)[1]
        expected = torch.autograd.grad(plain["linears.1"].square().sum(), net.linears[0].weight)[0]
        taps.remove()
        net.forward = lambda x: checkpoint(forward, x, use_reentrant=use_reentrant)
        taps = Taps(net)
        for _ in range(2):
            result, caught = taps.run(x)
            if use_reentrant:
                assert not caught
                assert "with a gradient" in taps.reason
                result.sum().backward()
                continue
            gradient = torch.autograd.grad(caught["linears.1"].square().sum(), net.linears[0].weight)[0]
            assert torch.equal(gradient, expected)
            assert taps._captured is None

    def test_copies_and_pickles(self) -> None:
        x = torch.randn(6, 8)
        net = nn.Sequential(nn.Linear(8, 8), Sum(), nn.Linear(8, 2))
        taps = Taps(net)
        expected = taps.run(x)[1]
        for twin in (copy.deepcopy(taps), pickle.loads(pickle.dumps(taps))):
            caught = twin.run(x)[1]
            assert list(caught) == list(expected)
            assert all(torch.equal(caught[name], expected[name]) for name in expected)
            twin.remove()
            assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.module.modules())
        assert any(m._forward_pre_hooks for m in net.modules())


class Sum(nn.Module):
    """x + f(x) twice, the sums being no module's outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.a(x)
        return x + self.b(x)


class TestNoChain:
    @pytest.mark.parametrize(
        ("net", "x", "reason"),
        [
            (nn.Flatten(), torch.randn(6, 2, 2), "no weight matrix"),
            (nn.Linear(4, 2), torch.randn(6, 4), "a single layer with weights"),
            (
                nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)),
                torch.randn(4),
                r"of shape \(4,\), is a single",
            ),
            (nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, 2)), torch.arange(6), "only one layer, '0'"),
        ],
    )
    def test_says_why_and_runs_the_network(self, net: nn.Module, x: Tensor, reason: str) -> None:
        taps = Taps(net)
        for _ in range(2):
            result, caught = taps.run(x)
            assert torch.equal(result, net(x))
            assert caught == {}
            assert taps.chain == []
            assert re.search(reason, taps.reason)
        assert taps._observed == 1

    def test_one_hidden_layer_is_enough(self) -> None:
        taps = Taps(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)))
        assert layers(taps) == ["input", "1"]
        assert taps.reason == ""

    def test_a_first_pass_inside_vmap(self) -> None:
        net = Net()
        taps, x = Taps(net), torch.randn(6, 4)
        assert torch.equal(torch.func.vmap(lambda x: taps.run(x)[0])(x), torch.func.vmap(net)(x))
        assert "torch.func" in taps.reason
        assert layers(taps) == ["input", "a", "b", "b#2"]  # the next pass is observed
        assert taps.reason == ""

    def test_a_later_pass_inside_a_transform(self) -> None:
        net = Net()
        taps, x = Taps(net), torch.randn(6, 4)
        taps.run(x)
        caught: dict[str, Tensor] = {"none": x}

        def loss(x: Tensor) -> Tensor:
            nonlocal caught
            result, caught = taps.run(x)
            return result.sum()

        torch.func.grad(loss)(x)
        assert caught == {}
        assert "torch.func" in taps.reason
        assert layers(taps) == ["input", "a", "b", "b#2"]
        assert taps.reason == ""
        assert taps._observed == 1

    @pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning")
    @pytest.mark.parametrize("before", [False, True])
    def test_a_pass_in_forward_mode(self, before: bool) -> None:
        net = Net()
        taps, x = Taps(net), torch.randn(6, 4)
        if before:
            taps.run(x)
        with forward_ad.dual_level():
            result, caught = taps.run(forward_ad.make_dual(x, torch.ones_like(x)))
            assert forward_ad.unpack_dual(result).tangent is not None
        assert caught == {}
        assert "forward mode" in taps.reason
        assert layers(taps) == ["input", "a", "b", "b#2"]

    @pytest.mark.filterwarnings("ignore:.*torch.jit.trace.*:FutureWarning")
    def test_a_first_pass_that_is_traced(self) -> None:
        class Tapped(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.taps = Taps(Net())
                self.net = self.taps.module

            def forward(self, x: Tensor) -> Tensor:
                return self.taps.run(x)[0]

        net, x = Tapped(), torch.randn(6, 4)
        traced = torch.jit.trace(net, x, check_trace=False)
        assert torch.equal(traced(x), net.net(x))


class TestErrors:
    def test_too_few_layers(self) -> None:
        with pytest.raises(ValueError, match=r"layers='a' selects 1 layer \(a\)"):
            Taps(Net(), "a")

    def test_a_layer_that_never_runs(self) -> None:
        with pytest.raises(ValueError, match="layers unused did not run"):
            Taps(Net(), ["a", "unused"]).run(torch.randn(6, 4))

    def test_rows_that_are_no_samples(self) -> None:
        class Mixed(Net):
            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.a(x)) + self.b(x.mean(0))[:2]

        with pytest.raises(ValueError, match=r"layer 'b' returns \(4,\).*rows of a layer must be samples"):
            Taps(Mixed(), ["a", "b"]).run(torch.randn(6, 4))

    @pytest.mark.parametrize("layers", ["auto", ["a", "b"]])
    def test_rows_that_are_samples_and_positions(self, layers: Any) -> None:
        class Flat(Net):
            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.b(self.a(x).flatten(0, 1)).view(*x.shape)).mean(1)

        net, x = Flat(), torch.randn(4, 4, 4)
        taps = Taps(net, layers)
        for _ in range(2):
            caught = taps.run(x)[1]
            assert caught["b"].shape == (4, 4, 4)
            assert torch.equal(caught["b"], net.b(net.a(x)).movedim(2, 1))
        assert taps.run(torch.randn(3, 6, 4))[1]["b"].shape == (3, 4, 6)  # other sizes

    def test_rows_of_the_result(self) -> None:
        class Joined(Net):
            def forward(self, one: Tensor, two: Tensor) -> Tensor:  # type: ignore[override]
                return super().forward(torch.cat([one, two]))

        shapes = {key: tuple(t.shape) for key, t in Taps(Joined()).run(*torch.randn(2, 4, 4))[1].items()}
        assert shapes == {"a": (8, 4), "b": (8, 4), "b#2": (8, 4)}

    @pytest.mark.parametrize("together", [False, True])
    def test_inputs_of_different_batch_sizes(self, together: bool) -> None:
        class Both(Net):
            def forward(self, one: Tensor, two: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
                if together:
                    return super().forward(torch.cat([one, two])).split([len(one), len(two)])
                return super().forward(one), super().forward(two)

        taps = Taps(Both())
        for _ in range(2):
            caught = taps.run(torch.randn(3, 4), torch.randn(6, 4))[1]
            assert len(caught) >= 3
            assert {len(layer) for layer in caught.values()} == ({9} if together else {6})
