"""Every diagnostic on networks and tensors where its value is known."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from mireg import diagnostics as d

torch.manual_seed(0)
X = torch.randn(64, 10)


def rotation(size: int) -> Tensor:
    return torch.linalg.qr(torch.randn(size, size))[0]


def test_drift_of_a_scaled_layer_is_the_scale() -> None:
    assert d.feature_drift(X, 1.25 * X) == pytest.approx(0.25)
    assert d.feature_drift(X, X) == 0


def test_alignment_ignores_scale_and_rotation_but_feature_drift_does_not() -> None:
    turned = 2 * X @ rotation(10)
    assert d.alignment_drift(X, turned) == pytest.approx(0, abs=1e-6)
    assert d.feature_drift(X, turned) > 1


def test_alignment_of_orthogonal_features_is_zero() -> None:
    basis = torch.linalg.qr(torch.randn(64, 9))[0]
    basis = torch.linalg.qr(torch.cat([torch.ones(64, 1), basis], 1))[0][:, 1:]  # of mean 0
    assert d.alignment_drift(basis[:, :4], basis[:, 4:]) == pytest.approx(1)


def test_alignment_sees_a_step_of_one_in_a_million() -> None:
    noise = torch.randn(X.shape, generator=torch.Generator().manual_seed(7), dtype=X.dtype)
    moved = X + 1e-3 * noise
    assert 1e-8 < d.alignment_drift(X, moved) < 1e-4


def linear_chain(weights: list[float]) -> dict[str, Tensor]:
    return {f"w{i}": torch.tensor([w]) for i, w in enumerate(weights)}


def product(parameters: Mapping[str, Tensor]) -> Tensor:
    return torch.stack(list(parameters.values())).prod()


def test_shift_of_a_linear_chain_is_known() -> None:
    before, after = linear_chain([2.0, 3.0, 5.0]), linear_chain([4.0, -1.0, 7.0])
    layers = [["w0"], ["w1"], ["w2"]]
    # dL/dw0 = w1 w2 with nothing below; dL/dw1 = w0 w2: 10 then 20; dL/dw2 = w0 w1: 6 then -4.
    assert d.covariate_shift(product, before, after, layers, [0, 1, 2]) == [(0, 1), (10, 1), (10, -1)]


def test_shift_of_a_network_leaves_it_as_it_is() -> None:
    network = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 1))
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    after = {name: p + 0.1 * torch.randn_like(p) for name, p in before.items()}
    layers = d.layer_parameters(network)

    def loss(parameters: Mapping[str, Tensor]) -> Tensor:
        return functional_call(network, dict(parameters), (X,)).square().mean()

    shifts = d.covariate_shift(loss, before, after, layers, range(3))
    assert shifts[0] == pytest.approx((0, 1))
    assert all(l2 > 0 and cosine < 1 for l2, cosine in shifts[1:])
    assert all(p.grad is None and torch.equal(p, before[name]) for name, p in network.named_parameters())


def test_gradient_norms_match_backward() -> None:
    network = nn.Sequential(nn.Linear(10, 8), nn.ReLU(), nn.Linear(8, 1))
    loss = network(X).square().mean()
    norms = d.gradient_norms(loss, dict(network.named_parameters()), d.layer_parameters(network))
    loss.backward()
    expected = [math.hypot(*(p.grad.norm().item() for p in layer.parameters())) for layer in (network[0], network[2])]
    assert norms == pytest.approx(expected)


def test_gradient_of_a_linear_network_is_its_weight_everywhere() -> None:
    network = nn.Linear(10, 1)
    gradients = d.input_gradients(lambda x: network(x)[:, 0], X)
    assert torch.allclose(gradients, network.weight.detach().expand(64, 10))
    assert d.mean_cosine(gradients) == pytest.approx(1)
    assert d.autocorrelation(gradients).isnan().all()


def test_autocorrelation_of_noise_vanishes_and_of_a_wave_does_not() -> None:
    noise = d.autocorrelation(torch.randn(2000, 5))
    assert noise[0] == 1
    assert noise[1:50].abs().max() < 0.05
    t = torch.arange(2000)[:, None]
    wave = d.autocorrelation(torch.sin(2 * torch.pi * t / 100))
    assert wave[100] == pytest.approx(0.95, abs=0.01)  # a whole period on; a share of 100/2000 of the terms is missing
    assert wave[50] == pytest.approx(-0.975, abs=0.01)


def test_mean_cosine_of_an_orthonormal_set_is_zero() -> None:
    assert d.mean_cosine(torch.eye(6)) == pytest.approx(0)


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_effective_rank_counts_equal_directions(rank: int) -> None:
    signs = torch.cat([torch.eye(rank), -torch.eye(rank)])
    assert d.effective_rank(signs @ rotation(8)[:rank]) == pytest.approx(rank, rel=1e-5)


def test_effective_rank_ignores_a_common_offset() -> None:
    assert d.effective_rank(X + 100) == pytest.approx(d.effective_rank(X), rel=1e-4)


def test_effective_parameters_fall_exponentially() -> None:
    assert d.effective_parameters(500, 0) == 500
    assert d.effective_parameters(500, 2) / d.effective_parameters(500, 1) == pytest.approx(math.exp(-1))


def test_layers_of_a_copy_are_the_layers() -> None:
    network = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2, bias=False))
    names = [name for layer in d.layer_parameters(copy.deepcopy(network)) for name in layer]
    assert names == [name for name, _ in network.named_parameters()]
