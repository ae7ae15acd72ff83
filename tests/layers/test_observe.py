"""What one observed pass finds."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from mireg.layers import Taps
from mireg.layers.observe import Observer
from mireg.layers.values import tensors_in
from tests.networks import NETWORKS


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "gpt2", "film", "denoising-u-net", "overwriting", "gru"])
def test_an_observed_pass_is_the_same_pass(name: str) -> None:
    """Outputs, gradients, buffers and random numbers, dropout among them."""
    case = NETWORKS[name]
    torch.manual_seed(0)
    net = case.make().train()
    twin = copy.deepcopy(net)
    args, kwargs = case.args(), case.kwargs()

    def run(net: nn.Module, *, observed: bool) -> list[torch.Tensor]:
        torch.manual_seed(1)
        if observed:
            with Observer(net, (args, kwargs)):
                result = net(*args, **kwargs)
        else:
            result = net(*args, **kwargs)
        outputs = [t for t in tensors_in(result) if t.requires_grad]
        sum(t.square().sum() for t in outputs).backward()
        gradients = [p.grad for p in net.parameters() if p.grad is not None]
        return [*outputs, *gradients, *net.buffers(), torch.get_rng_state()]

    ours, theirs = run(twin, observed=True), run(net, observed=False)
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in twin.modules())


def test_hooks_are_gone_where_the_network_fails() -> None:
    net = nn.Linear(4, 2)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        Taps(net).run(torch.zeros(6, 3))
    assert not any([net._forward_hooks, net._forward_pre_hooks])
    assert net(torch.zeros(6, 4)).shape == (6, 2)


class TestFlow:
    """Nodes of single operations."""

    def test_every_output_is_a_node(self) -> None:
        x = torch.randn(6, 4)
        with Observer(nn.Linear(4, 4), (x,)) as observer:
            left, right = x.chunk(2, 1)
            total = left + right
        assert [observer.node(t) for t in (x, left, right, total)] == [0, 1, 2, 3]
        assert observer.reads == [(), (0,), (0,), (1, 2)]

    def test_what_parameters_make_is_a_weight(self) -> None:
        x, net = torch.randn(6, 4), nn.Linear(4, 4)
        with Observer(net, (x,)) as observer:
            scaled = x * net.bias
            out = scaled @ (net.weight.t() * 2)
        assert observer.node(net.weight) is None
        assert observer.weights[observer.node(scaled)] is False
        assert observer.weights[observer.node(out)] is True

    def test_memory_is_what_was_written_into_it(self) -> None:
        x = torch.randn(6, 4)
        with Observer(nn.Linear(4, 4), (x,)) as observer:
            memory = torch.zeros(6, 4)
            memory[:, 0] = x[:, 0]
            first = memory + 1
            view = memory.view(-1)
            memory.mul_(2)
            second = view + 1  # was made before, and shares the memory
        read_first, read_second = (observer.reads[observer.node(t)] for t in (first, second))
        assert len(read_first) == 1
        assert read_first[0] < observer.node(memory)
        assert observer.node(memory) in read_second
        assert observer.node(view) is None  # no single node: a module that takes it is no tap

    @pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="fails on torch 2.8, not understood")
    def test_higher_order_operators(self) -> None:
        x = torch.randn(6, 4)
        with Observer(nn.Linear(4, 4), (x,)) as observer:
            out = torch.cond(x.sum() > 0, lambda x: x + 1, lambda x: x - 1, (x,))
        assert observer.node(out) is not None


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
