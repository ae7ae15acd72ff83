"""What the wrapper and the estimators promise whatever the network."""

from __future__ import annotations

import copy
import gc
import itertools
import math
import pickle
import weakref
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg
from mireg import estimators
from mireg.ablation.training.denormals import flushed_denormals
from mireg.term import FEWEST_ROWS
from models import build


def is_rewarded(name: str) -> bool:
    return estimators.REGISTRY[name].is_differentiable and not estimators.REGISTRY[name].is_learned


ESTIMATORS = [name for name in estimators.names() if is_rewarded(name)]

NETWORKS = {
    "mlp": ("mlp", {"depth": 4, "width": 16}),
    "mlp-batchnorm-residual": ("mlp", {"depth": 4, "width": 16, "batchnorm": True, "residual": True}),
    "cnn": ("cnn", {"depth": 3, "width": 8}),
    "cnn-batchnorm": ("cnn", {"depth": 3, "width": 8, "batchnorm": True}),
    "cnn-residual": ("cnn", {"depth": 3, "width": 8, "residual": True}),
}


@pytest.fixture(params=NETWORKS)
def network(request: pytest.FixtureRequest) -> nn.Module:
    name, options = NETWORKS[request.param]
    return build(name, options, (1, 8, 8), 10)


@pytest.fixture
def batch() -> tuple[Tensor, Tensor]:
    return torch.randn(24, 1, 8, 8), torch.randint(10, (24,))


def gradients(network: nn.Module, batch: tuple[Tensor, Tensor], weight: float | None) -> tuple[Tensor, list[Tensor]]:
    model: Any = network if weight is None else mireg.wrap(network, weight=weight)
    images, labels = batch
    output = model(images)
    loss = cross_entropy(output, labels)
    if weight is not None:
        loss = loss + model.mi_loss()
    network.zero_grad()
    loss.backward()
    return output.detach(), [p.grad.clone() for p in network.parameters()]


class TestWrappingChangesNothing:
    def test_output_and_random_numbers(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        bare = copy.deepcopy(network)
        before = torch.get_rng_state()
        expected = bare(batch[0])
        model = mireg.wrap(network)
        for _ in range(2):  # the first pass is observed, the second one tapped
            torch.set_rng_state(before)
            assert torch.equal(model(batch[0]), expected)
            assert torch.equal(torch.get_rng_state(), before)

    def test_weight_0_is_bit_identical(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        bare_output, bare = gradients(copy.deepcopy(network), batch, None)
        output, wrapped = gradients(network, batch, 0)
        assert torch.equal(bare_output, output)
        assert all(torch.equal(a, b) for a, b in zip(bare, wrapped, strict=True))

    def test_a_weight_does_change_gradients(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        _, bare = gradients(copy.deepcopy(network), batch, None)
        _, wrapped = gradients(network, batch, 0.3)
        assert any(not torch.equal(a, b) for a, b in zip(bare, wrapped, strict=True))

    def test_state_dict_keys(self, network: nn.Module) -> None:
        expected = {key: value.clone() for key, value in network.state_dict().items()}
        model = mireg.wrap(network)
        assert list(model.state_dict()) == list(expected)
        nested = nn.Sequential(model)
        assert list(nested.state_dict()) == [f"0.{key}" for key in expected]
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.zero_()
        model.load_state_dict(expected)
        assert all(torch.equal(a, b) for a, b in zip(network.state_dict().values(), expected.values(), strict=True))
        nested.load_state_dict({f"0.{key}": value for key, value in expected.items()})

    def test_missing_and_unexpected_keys_are_named_as_the_network_names_them(self, network: nn.Module) -> None:
        state = network.state_dict()
        first = next(iter(state))
        state["extra"] = state.pop(first)
        with pytest.raises(RuntimeError, match="extra"):
            mireg.wrap(network).load_state_dict(state)

    def test_unwrap(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        model = mireg.wrap(network)
        model(batch[0])
        assert model.unwrap() is network
        assert all(not m._forward_hooks and not m._forward_pre_hooks for m in network.modules())

    def test_copies_and_pickles(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        model = mireg.wrap(network)
        model(batch[0])
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert torch.equal(twin(batch[0]), model(batch[0]))
            assert torch.isfinite(twin.mi_loss())
            assert list(twin.mi_terms()) != []
            assert twin.module is not network


class TestNothingIsKept:
    def test_activations_are_freed(self, network: nn.Module, batch: tuple[Tensor, Tensor]) -> None:
        model = mireg.wrap(network, weight=0.5)
        for step in range(5):
            output = model(batch[0])
            caught = [weakref.ref(tensor) for name, tensor in (model._captured or {}).items() if name != "input"]
            loss = cross_entropy(output, batch[1]) + (model.mi_loss(batch[1]) if step % 2 else model.mi_loss())
            loss.backward()
            del loss, output
            gc.collect()
            assert len(caught) >= 3
            assert all(ref() is None for ref in caught)

    def test_each_share_is_computed_once(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """One Gram matrix a layer, and one product for all layers of a width."""
        from mireg.estimators import gram

        stacks = []
        original = gram.standardise

        def watched(stack: Tensor, *noise: Any) -> Any:
            stacks.append(stack.shape)
            return original(stack, *noise)

        monkeypatch.setattr(gram, "standardise", watched)
        estimators.get("kde").successive([torch.randn(8, 20)] + [torch.randn(8, 5) for _ in range(6)])
        assert stacks == [(1, 8, 20), (6, 8, 5)]

    def test_nothing_is_captured_in_eval_or_without_gradients(self, batch: tuple[Tensor, Tensor]) -> None:
        model = mireg.wrap(build("mlp", {"depth": 3, "width": 8}, (1, 8, 8), 10))
        model.eval()
        model(batch[0])
        assert model._captured is None
        model.train()
        with torch.no_grad():
            model(batch[0])
        assert model._captured is None
        with pytest.raises(RuntimeError, match=r"model\.train\(\)"):
            model.mi_loss()


@pytest.mark.parametrize("name", ESTIMATORS)
class TestEstimates:
    @given(seed=st.integers(0, 10_000), n=st.integers(3, 40))
    def test_order_of_samples(self, name: str, seed: int, n: int) -> None:
        n = max(n, FEWEST_ROWS) if name == "usable" else n  # on fewer, its inverse is lost in rounding
        generator = torch.Generator().manual_seed(seed)
        x, y = (torch.randn(n, d, generator=generator) for d in (3, 5))
        order = torch.randperm(n, generator=generator)
        estimator = estimators.get(name)
        assert estimator(x[order], y[order]).item() == pytest.approx(estimator(x, y).item(), abs=1e-4)

    @given(scale=st.floats(1e-3, 1e3))
    def test_scale_of_a_layer(self, name: str, scale: float) -> None:
        generator = torch.Generator().manual_seed(1)
        x = torch.randn(30, 4, generator=generator)
        y = x @ torch.randn(4, 6, generator=generator)
        estimator = estimators.get(name)
        assert estimator(scale * x, y).item() == pytest.approx(estimator(x, y).item(), abs=1e-4, rel=1e-4)

    def test_collapsed_layer(self, name: str) -> None:
        """Rows equal up to float32 rounding: an estimate near 0, a gradient bounded by the noise floor's root."""
        x = torch.randn(32, 16)
        collapsed = (torch.rand(1, 16) + 1e-7 * torch.randn(32, 16)).requires_grad_()
        value = estimators.get(name)(x, collapsed)
        value.backward()
        assert abs(value.item()) < 0.01
        assert collapsed.grad.isfinite().all()
        assert collapsed.grad.norm() < 1e-5**-0.5

    @pytest.mark.parametrize("flushed", [False, True], ids=["", "denormals flushed"])
    @pytest.mark.parametrize("constant", [0.0, 3.0])
    def test_constant_layer(self, name: str, constant: float, flushed: bool) -> None:
        y = torch.full((32, 16), constant, requires_grad=True)
        with flushed_denormals() if flushed else nullcontext():
            value = estimators.get(name)(torch.randn(32, 16), y)
            value.backward()
        assert abs(value.item()) < 0.01
        assert y.grad.isfinite().all()


class TestClosedForms:
    def test_kde_tells_clusters_apart(self) -> None:
        """k clusters of 6, far apart at the bandwidth, in both layers: log of others over others in the cluster."""
        for k in (2, 4, 8):
            centres = torch.eye(k).repeat_interleave(6, 0)
            value = estimators.get("kde", bandwidth=0.05)(centres, centres @ torch.randn(k, 5))
            assert value.item() == pytest.approx(math.log((6 * k - 1) / 5), abs=1e-3)

    def test_kde_of_correlated_normals(self) -> None:
        """What the bound converges to, from the mean log density of N(0, S + s) at points of N(0, S)."""
        s = 0.25
        for rho in (0.0, 0.5, 0.9):
            z = torch.randn(3000, 2, dtype=torch.float64)
            x, y = z[:, :1], rho * z[:, :1] + (1 - rho**2) ** 0.5 * z[:, 1:]
            at_noise = -0.5 * math.log(1 - (rho / (1 + s)) ** 2)
            trace = sum((1 + sign * rho) / (1 + sign * rho + s) for sign in (1, -1))
            limit = at_noise + 1 / (1 + s) - trace / 2
            assert estimators.get("kde", bandwidth=s**0.5)(x, y).item() == pytest.approx(limit, abs=0.03)

    def test_independent_layers_score_far_below_a_copy(self) -> None:
        x, y = torch.randn(128, 1), torch.randn(128, 1)
        for name in ESTIMATORS:
            estimator = estimators.get(name)
            assert estimator(x, y) < 0.6 * estimator(x, x)

    def test_cka_of_a_rotation_is_1(self) -> None:
        x = torch.randn(40, 6)
        q = torch.linalg.qr(torch.randn(6, 6)).Q
        assert estimators.get("cka", noise_floor=0.0)(x, x @ q).item() == pytest.approx(1, abs=1e-3)

    def test_successive_equals_pair_by_pair(self) -> None:
        layers = [torch.randn(20, d) for d in (7, 5, 5, 9, 5)]
        for name in ESTIMATORS:
            estimator = estimators.get(name)
            pairwise = torch.stack([estimator(a, b) for a, b in itertools.pairwise(layers)])
            torch.testing.assert_close(estimator.successive(layers), pairwise, atol=1e-5, rtol=1e-4)
