"""Values that are known in closed form."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from mireg import estimators

N = 2000


def related_by_rotation(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    return x, x @ torch.linalg.qr(torch.randn(x.shape[1], x.shape[1])).Q


def normal(rho: float, d: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    z = torch.randn(2, N, d, generator=torch.Generator().manual_seed(seed))
    return z[0], rho * z[0] + math.sqrt(1 - rho**2) * z[1]


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("name", ["kde", "gaussian", "binning", "ksg"])
def test_bivariate_normal(name: str, rho: float) -> None:
    estimator = estimators.get(name, **({"bandwidth": "auto"} if name == "kde" else {}))
    truth = -math.log1p(-(rho**2)) / 2
    found = [estimator(*normal(rho, seed=seed)).item() for seed in range(3)]
    assert sum(found) / 3 == pytest.approx(truth, abs=0.08)


def test_binning_gradient_is_finite_where_bins_are_empty() -> None:
    x, y = (rows[:500].requires_grad_() for rows in normal(0.0))
    for gradient in torch.autograd.grad(estimators.get("binning")(x, y), [x, y]):
        assert torch.isfinite(gradient).all()


def test_ksg_reads_dependence_of_the_radius_alone() -> None:
    """Student t in 3 + 3 units: a fixed number of neighbours loses a third of it."""
    z = torch.randn(N, 6, generator=torch.Generator().manual_seed(0))
    chi = torch.randn(N, 3, generator=torch.Generator().manual_seed(1)).square().sum(1, keepdim=True)
    x, y = (z * (3 / chi).sqrt()).split(3, 1)
    found = estimators.get("ksg")(x, y).item()
    assert estimators.get("ksg", k=3)(x, y).item() < found
    assert found == pytest.approx(0.1787, abs=0.08)


def test_gaussian_is_exact_up_to_noise_on_a_known_covariance() -> None:
    x = torch.tensor([[1.0], [1.0], [-1.0], [-1.0]]).repeat(500, 1)
    y = 0.6 * x + 0.8 * torch.tensor([[1.0], [-1.0], [1.0], [-1.0]]).repeat(500, 1)  # correlation exactly 0.6
    truth = -math.log(1 - 0.36) / 2
    assert estimators.get("gaussian")(x, y).item() == pytest.approx(truth - 1 / (2 * 1999), abs=2e-4)


@pytest.mark.parametrize("n", [16, 40])
def test_gaussian_agrees_in_both_spaces(n: int) -> None:
    x, y = normal(0.7, d=6)
    layers = [x[:n].double(), y[:n, :3].double(), (x + y)[:n].double()]
    feature, sample = (estimators.get("gaussian", space=space).successive(layers) for space in ("feature", "sample"))
    torch.testing.assert_close(feature, sample)


def test_gaussian_has_no_bias_in_25_dimensions() -> None:
    x, y = normal(0.0, d=25)
    assert abs(estimators.get("gaussian")(x, y).item()) < 0.02


def test_renyi_of_order_two_needs_no_eigenvalues() -> None:
    x, y = (rows[:50].double() for rows in normal(0.8))
    near = estimators.get("renyi", alpha=2 + 1e-9)(x, y)
    torch.testing.assert_close(estimators.get("renyi")(x, y), near)


def test_kde_is_its_formula() -> None:
    x, y = (rows[:32].double() for rows in normal(0.8, d=4))
    nats = []
    for sigma in (0.5, 0.25):
        near_x, near_y = (
            torch.exp(-(torch.cdist(z, z) ** 2) / (2 * sigma**2)).fill_diagonal_(0)
            for z in ((r - r.mean(0)) / (r - r.mean(0)).square().sum(1).mean().sqrt() for r in (x, y))
        )
        nats.append((31 * (near_x * near_y).sum(1) / (near_x.sum(1) * near_y.sum(1))).log().mean())
    found = estimators.get("kde", bandwidth=(0.5, 0.25))(x, y)
    torch.testing.assert_close(found, torch.stack(nats).mean(), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("d", [1, 2, 25])
def test_kde_of_independent_samples_is_about_nothing(d: int) -> None:
    found = [estimators.get("kde")(*(rows[:128] for rows in normal(0.0, d, seed))).item() for seed in range(5)]
    assert sum(found) / 5 == pytest.approx(0, abs=0.1)  # 0.35, 1.5 and 3.9 with self terms


def test_kde_of_a_sample_without_neighbours_says_nothing() -> None:
    x, y = (rows[:64].clone() for rows in normal(0.9))
    x[0] = 1e4
    x.requires_grad_()
    found = estimators.get("kde", bandwidth=0.01)(x, y)
    found.backward()
    assert found.isfinite()
    assert x.grad is not None
    assert x.grad.isfinite().all()


def test_hsic_is_the_trace() -> None:
    x, y = (rows[:20].double() for rows in normal(0.8))
    kernels = []
    for rows in (x, y):
        z = (rows - rows.mean()) / rows.std(correction=0)
        kernels.append(torch.exp(-(torch.cdist(z, z) ** 2) / 2))
    centring = torch.eye(20) - torch.ones(20, 20).double() / 20
    truth = torch.trace(kernels[0] @ centring @ kernels[1] @ centring) / 19**2
    torch.testing.assert_close(estimators.get("hsic")(x, y), truth, atol=1e-5, rtol=1e-4)


def test_unbiased_dependence_is_about_nothing_at_independence() -> None:
    x, y = (rows[:100] for rows in normal(0.0, d=50))
    assert estimators.get("cka")(x, y) > 0.3
    assert abs(estimators.get("cka", unbiased=True)(x, y).item()) < 0.05
    assert abs(estimators.get("hsic", unbiased=True)(x, y).item()) < 0.01
    with pytest.raises(ValueError, match="at least 4 samples"):
        estimators.get("hsic", unbiased=True)(x[:3], y[:3])


def test_hard_bins_count_symbols() -> None:
    x = torch.arange(8.0)[:, None]
    assert estimators.get("hard_binning", bins=8)(x, x).item() == pytest.approx(math.log(8))
    assert estimators.get("hard_binning", bins=2)(x, x % 2).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.slow
def test_infonce_learns_and_is_judged_on_other_samples() -> None:
    x, y = (torch.cat(rows) for rows in zip(*(normal(0.9, seed=seed) for seed in range(3)), strict=True))
    critic: Any = estimators.get("infonce")
    parameters = list(critic.parameters())  # before the critic has a shape
    critic.fit(x[:4000], y[:4000], steps=300)
    truth = -math.log1p(-0.81) / 2
    assert critic(x[4000:], y[4000:]).item() == pytest.approx(truth, abs=0.15)
    assert all(a is b for a, b in zip(parameters, critic.parameters(), strict=True))
    again = estimators.get("infonce", seed=1)
    again.load_state_dict(critic.state_dict())
    assert again(x, y) == critic(x, y)


def test_infonce_trains_with_the_network() -> None:
    x, y = (rows[:256] for rows in normal(0.95))
    critic: Any = estimators.get("infonce")
    optimizer = torch.optim.Adam(critic.parameters(), lr=1e-2)
    first = critic(x, y).item()
    for _ in range(60):
        optimizer.zero_grad()
        (-critic(x, y)).backward()
        optimizer.step()
    assert critic(x, y).item() > first + 0.5


def test_automatic_bandwidth_is_for_few_units() -> None:
    with pytest.raises(ValueError, match="few units"):
        estimators.get("kde", bandwidth="auto")(torch.randn(8, 4), torch.randn(8, 4))


def test_covarying_slices_do_not_ask_for_a_single_direction() -> None:
    """Random slices share most where layers have one direction; rewarded, they bring that about."""
    many = related_by_rotation(torch.randn(64, 32))
    one = related_by_rotation(torch.randn(64, 1) @ torch.randn(1, 32))
    random, covarying = estimators.get("binning"), estimators.get("binning").for_training()
    assert random(*one) > 10 * random(*many)
    assert covarying(*one) < 4 * covarying(*many)


@pytest.mark.parametrize("name", ["usable", "kde", "binning"])
def test_a_reward_of_shuffled_rows_is_not_above_nothing(name: str) -> None:
    """Whatever the layer: a reward for rows that do not belong together would be one for keeping rows apart."""
    reward = estimators.get(name).for_training()
    layers = [torch.randn(128, 64), torch.randn(128, 64).tanh(), torch.randn(128, 3) @ torch.randn(3, 64)]
    found = torch.stack([reward.about(layers, torch.randn(128, 16)) for _ in range(20)]).mean(0)
    assert (found < 0.03).all()


@pytest.mark.parametrize("name", ["kde", "binning"])
def test_a_reward_reads_more_of_a_layer_that_knows(name: str) -> None:
    z = torch.randn(128, 16)
    layers = [z @ torch.randn(16, 64), torch.tanh(z @ torch.randn(16, 64)) + torch.randn(128, 64), torch.randn(128, 64)]
    knows, less, nothing = estimators.get(name).for_training().about(layers, z)
    assert knows > less > nothing + 0.01


def test_covarying_slices_of_single_units_are_the_units() -> None:
    x, noise = torch.randn(5000, 2).unbind(1)
    nats = estimators.get("binning", slicing="covarying")(x, 0.9 * x + math.sqrt(1 - 0.81) * noise)
    assert nats.item() == pytest.approx(-math.log(1 - 0.81) / 2, abs=0.08)


def test_shared_noise_is_for_covarying_slices() -> None:
    with pytest.raises(ValueError, match=r"shared_noise=0\.01: for slicing='covarying' alone"):
        estimators.get("binning", shared_noise=0.01)
