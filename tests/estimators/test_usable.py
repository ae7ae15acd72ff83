"""What a linear reader gets out of a layer, against closed forms and a reader that is really left one sample short."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor

from mireg.estimators import Usable
from mireg.estimators import usable as module
from mireg.estimators.gram import grouped
from mireg.estimators.target import class_products, codes


def samples(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def left_out(layer: Tensor, target: Tensor, ridge: float) -> tuple[Tensor, Tensor]:
    """Squared errors, summed, of predicting each row from all others by their mean, and by ridge regression."""
    z = layer - layer.mean(0)
    z = z / z.square().sum(1).mean().sqrt()  # as the estimate scales it: once, on all rows
    n, d = z.shape
    ones = torch.ones(n, 1, dtype=z.dtype)
    penalty = ridge * torch.eye(d + 1, dtype=z.dtype)
    penalty[0, 0] = 0  # of the intercept
    design = torch.cat([ones, z], 1)
    by_mean, by_layer = [], []
    for i in range(n):
        rest = torch.arange(n) != i
        weights = torch.linalg.solve(design[rest].T @ design[rest] + penalty, design[rest].T @ target[rest])
        by_layer.append(target[i] - design[i] @ weights)
        by_mean.append(target[i] - target[rest].mean(0))
    return torch.stack(by_mean).square().sum(), torch.stack(by_layer).square().sum()


@pytest.mark.parametrize("ridge", [1e-3, 0.1, 3.0])
@pytest.mark.parametrize(("n", "d"), [(20, 3), (20, 19), (20, 20), (12, 40)])
def test_leave_one_out_is_leaving_one_out(n: int, d: int, ridge: float) -> None:
    layer, target = samples(n, d), samples(n, 2, 1) + samples(n, d)[:, :2]
    baseline, error = left_out(layer, target, ridge)
    found = Usable(ridge=ridge, noise_floor=0.0).about([layer], target)
    torch.testing.assert_close(found[0], (baseline / error).log(), atol=1e-8, rtol=1e-8)  # k / 2 with k = 2
    single = Usable(ridge=ridge, noise_floor=0.0).about([layer.float()], target.float())
    torch.testing.assert_close(single[0], found[0].float(), atol=2e-4, rtol=1e-3)


def test_leave_one_out_of_classes() -> None:
    layer, classes = samples(30, 5), torch.arange(30) % 3
    baseline, error = left_out(layer, torch.nn.functional.one_hot(classes).double(), 0.1)
    found = Usable(ridge=0.1, noise_floor=0.0).about([layer], classes)
    torch.testing.assert_close(found[0], (baseline / error).log() / 2, atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9, 0.99])
def test_bivariate_normal(rho: float) -> None:
    z = samples(2000, 2)
    z = z - z.mean(0)
    z = z @ torch.linalg.inv(torch.linalg.cholesky(z.T @ z / 2000)).T  # a correlation of exactly rho
    x, y = z[:, :1], rho * z[:, :1] + math.sqrt(1 - rho**2) * z[:, 1:]
    truth = -math.log1p(-(rho**2)) / 2
    assert Usable()(x, y).item() == pytest.approx(truth, abs=0.03)
    assert Usable().about([x], y)[0].item() == pytest.approx(truth, abs=0.03)


@pytest.mark.parametrize("d", [1, 16, 256])
@pytest.mark.parametrize("n", [64, 128])
def test_noise_of_any_width_reads_nothing(n: int, d: int) -> None:
    target = torch.arange(n) % 10
    found = [Usable().about([samples(n, d, seed).float()], target)[0].item() for seed in range(10)]
    assert abs(sum(found) / 10) < 0.02
    values = [Usable().about([samples(n, d, seed)], samples(n, 1, seed + 50))[0].item() for seed in range(10)]
    assert abs(sum(values) / 10) < 0.02


def test_noise_wider_than_the_batch_reads_nothing_as_in_training() -> None:
    estimator = Usable().for_training()
    found = [estimator.about([samples(64, 512, seed).float()], torch.arange(64) % 10)[0].item() for seed in range(10)]
    assert -0.06 < sum(found) / 10 < 0.02  # a fixed ridge predicts noise a little worse than the mean does


@pytest.mark.parametrize("noise", [0.3, 1.0])
def test_injected_noise_is_not_information(noise: float) -> None:
    target = torch.arange(128) % 4
    for seed in range(5):
        layer = samples(4, 32)[target] + samples(128, 32, seed)
        noisy = layer + noise * samples(128, 32, seed + 9)
        dropped = layer * 2 * (samples(128, 32, seed + 20) > 0)
        clean, *other = Usable().about([layer, noisy, dropped], target).tolist()
        assert all(nats <= clean + 0.02 for nats in other)


def test_a_duplicated_unit_adds_nothing() -> None:
    layer, target = samples(100, 3), samples(100, 1, 1) + samples(100, 3)[:, :1]
    once, often = Usable(ridge=0.1).about([layer, layer.repeat(1, 5)], target)
    torch.testing.assert_close(once, often)


def test_a_mask_is_the_removal_of_rows() -> None:
    """-100 in the target of a row, whatever the layers hold there."""
    layers = [samples(40, d, d) for d in (3, 60, 3, 12)]
    target = torch.arange(40) % 3
    target[[1, 7, 30, 31]] = -100
    kept = target != -100
    for layer in layers:
        layer[~kept] *= 50
    for ridge in ("auto", 0.1):
        masked = Usable(ridge=ridge).about(layers, target)
        removed = Usable(ridge=ridge).about([layer[kept] for layer in layers], target[kept])
        torch.testing.assert_close(masked, removed)
    grown = [layer.clone().requires_grad_() for layer in layers]
    Usable(ridge=0.1).about(grown, target).sum().backward()
    fewer = [layer[kept].clone().requires_grad_() for layer in layers]
    Usable(ridge=0.1).about(fewer, target[kept]).sum().backward()
    for whole, part in zip(grown, fewer, strict=True):
        assert whole.grad is not None
        torch.testing.assert_close(whole.grad[kept], part.grad)
        assert not whole.grad[~kept].any()


def test_classes_on_an_accelerator_have_the_same_products(monkeypatch: pytest.MonkeyPatch) -> None:
    target = torch.tensor([3, 3, 0, 9, 0, 3, 9, 9, -100, 0, 3, -100, 9, 0, 0, 9])
    like = samples(16, 1)
    one_hot, kept = codes(target, like)
    code = class_products(target, like.dtype)
    assert kept is not None
    used = kept.bool()
    torch.testing.assert_close((code @ code.T)[used][:, used], (one_hot @ one_hot.T)[used][:, used])
    layers = [samples(16, d, d) for d in (3, 40, 3)]
    expected = Usable(ridge=0.1).about(layers, target)
    monkeypatch.setattr(module, "codes", lambda target, like: (class_products(target, like.dtype), kept))
    torch.testing.assert_close(Usable(ridge=0.1).about(layers, target), expected)


def test_autocast_leaves_the_estimate_in_single_precision() -> None:
    layers, target = [samples(32, d, d).float() for d in (4, 64)], torch.arange(32) % 3
    expected = Usable().about(layers, target)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = Usable().about(layers, target)
        half = Usable().about([layer.bfloat16() for layer in layers], target)
    assert torch.equal(found, expected)
    assert half.dtype == torch.float32


def test_layers_of_unlike_widths_keep_their_order() -> None:
    target = samples(50, 2)
    widths = (5, 3, 5, 70, 3, 5)
    layers = [target @ samples(2, d, d) + noise * samples(50, d, 9 + d) for noise, d in enumerate(widths)]
    found = Usable(ridge=0.1).about(layers, target)
    alone = torch.cat([Usable(ridge=0.1).about([layer], target) for layer in layers])
    torch.testing.assert_close(found, alone)
    in_pairs = torch.stack([Usable(ridge=0.1)(a, b) for a, b in pairwise(layers)])
    torch.testing.assert_close(Usable(ridge=0.1).successive(layers), in_pairs)
    assert grouped([2, 1, 2, 1], lambda positions: torch.tensor(positions)).tolist() == [0, 1, 2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("d", [3, 30])
@pytest.mark.parametrize("options", [{"ridge": 0.1}, {"ridge": 1e-2, "per_dimension": True}], ids=str)
def test_gradients(d: int, options: dict[str, Any]) -> None:
    layers = [samples(12, width, width).requires_grad_() for width in (4, d, d)]
    masked = torch.tensor([0, 1, 2, 0, 1, 2, -100, 1, 2, 0, -100, 2])
    for target in (samples(12, 2, 5), torch.arange(12) % 3, masked):
        assert torch.autograd.gradcheck(lambda *x, y=target: Usable(**options).about(x, y), layers)
    assert torch.autograd.gradcheck(lambda *x: Usable(**options).successive(x), layers)


def test_shared_noise_is_a_constant_of_the_gradient() -> None:
    """Its size is read off the first layer, so nothing pulls that layer's scale up or down."""
    layers, target = [samples(12, 4, seed) for seed in range(3)], torch.arange(12) % 3
    estimator = Usable(ridge=0.1, shared_noise=0.1)
    reference = layers[0].clone()

    class Fixed(Usable):
        def _noise(self, *_: object) -> Tensor:
            return Usable._noise(self, reference)

    fixed = Fixed(ridge=0.1, shared_noise=0.1)
    torch.testing.assert_close(fixed.about(layers, target), estimator.about(layers, target))
    grown = [layer.requires_grad_() for layer in layers]
    assert torch.autograd.gradcheck(lambda *x: fixed.about(x, target), grown)
    ours, theirs = (torch.autograd.grad(each.about(grown, target).sum(), grown) for each in (estimator, fixed))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b)


def test_shared_noise_drowns_a_faint_layer() -> None:
    target = samples(200, 1)
    loud, faint = target.repeat(1, 3), 1e-3 * target.repeat(1, 3)
    estimator = Usable(ridge=0.1, shared_noise=0.01)
    told, drowned = estimator.about([loud, faint], target)
    assert told > 10 * drowned
    assert Usable(ridge=0.1).about([loud, faint], target).diff().abs() < 1e-3


def test_what_is_not_finite_is_nan_not_an_error() -> None:
    layers = [samples(32, 3, seed).float() for seed in range(3)]
    layers[1][4, 2] = torch.inf
    for ridge in ("auto", 0.1):
        found = Usable(ridge=ridge).estimate_about(layers, torch.arange(32) % 3)
        assert found.isfinite().tolist() == [True, False, True]


@pytest.mark.parametrize("ridge", [1e-3, 0.03, 0.1])
@pytest.mark.parametrize("d", [128, 200])
def test_a_collapsed_layer_reads_alike_in_single_and_double_precision(d: int, ridge: float) -> None:
    labels = torch.randint(10, (128,))
    layer = torch.randn(128, 1) @ torch.randn(1, d) + 1e-3 * torch.randn(128, d) + 0.3
    estimator = Usable(ridge=ridge)
    single, double = (estimator.about([each], labels).item() for each in (layer, layer.double()))
    assert single == pytest.approx(double, abs=1e-3)


@pytest.mark.parametrize("d", [3, 14])
def test_gradient_of_the_noise_floor(d: int) -> None:
    """A floor of the mean row's size moves with the mean."""
    layers = [(samples(12, d, seed) + 1).requires_grad_() for seed in range(2)]
    masked = torch.tensor([0, 1, 2, 0, 1, 2, -100, 1, 2, 0, -100, 2])
    for target in (torch.arange(12) % 3, masked, samples(12, 2, 5)):
        estimator = Usable(ridge=0.1, noise_floor=0.5)
        assert torch.autograd.gradcheck(lambda *x, y=target, e=estimator: e.about(x, y), layers)


def test_shared_noise_is_no_larger_than_for_units_of_variance_1() -> None:
    """Of an input that is not standardised, such as pixels up to 255, the noise would drown every layer."""
    first = samples(64, 4)
    first = first / first.std(0, correction=0)
    layer, target = 0.05 * first + 0.02 * samples(64, 4, 1), (first[:, 0] > 0).long()
    estimator = Usable(ridge=0.1, shared_noise=0.1)
    faint, usual, large = (estimator.estimate_parts(scale * first, [layer], [target]) for scale in (0.1, 1.0, 255.0))
    torch.testing.assert_close(large, usual)
    assert (faint - usual).abs() > 1e-3


def test_parts_are_estimates_of_their_own() -> None:
    first, layers = samples(40, 3), [samples(40, d, d) for d in (5, 60, 5)]
    skipped, values = torch.arange(40) % 3, samples(40, 6, 3)
    skipped[::7] = -100
    estimator = Usable().for_training()
    for targets in ([values, torch.arange(40) % 3], [values, skipped], [skipped, values, values[:, :1]], [values]):
        parts = estimator.estimate_parts(first, layers, targets)
        alone = [estimator.estimate_about([first, *layers], target)[1:] for target in targets]
        torch.testing.assert_close(parts, torch.stack(alone))


@pytest.mark.parametrize("ridge", ["auto", 0.1])
@pytest.mark.parametrize("kind", ["values", "rows of values", "classes"])
def test_rows_that_tell_nothing_are_as_if_removed(kind: str, ridge: Any) -> None:
    """Missing values, and classes of a single row."""
    target, lost = samples(40, 2, 9), torch.tensor([1, 7, 30, 31])
    if kind == "classes":
        target = torch.arange(40) % 3
        target[lost] = torch.arange(10, 14)
    elif kind == "values":
        target = target[:, 0]
        target[lost] = torch.tensor([torch.nan, torch.inf, -torch.inf, torch.nan]).double()
    else:
        target[lost] = torch.nan
    kept = torch.ones(40, dtype=torch.bool)
    kept[lost] = False
    layers = [samples(40, d, d).requires_grad_() for d in (3, 60, 12)]
    fewer = [layer.detach()[kept].requires_grad_() for layer in layers]
    estimator = Usable(ridge=ridge, shared_noise=0.1)
    found, expected = estimator.estimate_about(layers, target), estimator.about(fewer, target[kept])
    torch.testing.assert_close(found, expected)
    of_all, of_fewer = (torch.autograd.grad(nats.sum(), each) for nats, each in ((found, layers), (expected, fewer)))
    for whole, part in zip(of_all, of_fewer, strict=True):
        torch.testing.assert_close(whole[kept], part)
        assert not whole[lost].any()


def test_a_missing_value_among_others_is_their_mean() -> None:
    target, layers = samples(40, 2, 9), [samples(40, d, d) for d in (3, 60)]
    filled = target.clone()
    target[5, 0] = torch.nan
    filled[5, 0] = target[:, 0].nanmean()
    estimator = Usable(ridge=0.1)
    torch.testing.assert_close(estimator.estimate_about(layers, target), estimator.about(layers, filled))


@pytest.mark.parametrize("target", [torch.arange(16), torch.full((16,), -100), torch.full((16, 2), torch.nan)], ids=str)
def test_a_target_of_which_no_row_counts_reads_nothing(target: Tensor) -> None:
    layers = [samples(16, d, d).float().requires_grad_() for d in (3, 60, 3)]
    nats = Usable().for_training().estimate_about(layers, target)
    torch.testing.assert_close(nats, torch.zeros(3))
    for gradient in torch.autograd.grad(nats.sum(), layers):
        assert not gradient.any()


def several(*layers: Tensor) -> Tensor:
    masked = torch.tensor([0, 1, 2, 0, 1, 2, -100, 1, 2, 0, -100, 2])
    targets = [samples(12, 2, 5), masked]
    return Usable().for_training().estimate_parts(samples(12, 4), list(layers), targets)


@pytest.mark.slow
@pytest.mark.parametrize("d", [3, 15])
def test_second_derivatives(d: int) -> None:
    layers = [samples(12, d, d).requires_grad_(), samples(12, 2, 2).requires_grad_()]
    assert torch.autograd.gradgradcheck(several, layers, fast_mode=True)
    narrow = [samples(8, 2, seed).requires_grad_() for seed in range(2)]
    assert torch.autograd.gradgradcheck(lambda *x: Usable(ridge=0.1).successive(x), narrow, fast_mode=True)


@pytest.mark.parametrize("d", [3, 15, 40])
def test_gradients_in_closed_form_are_those_of_the_plain_formula(d: int) -> None:
    layers = [(samples(12, width, width) + 0.5).requires_grad_() for width in (d, 2, d)]
    weights = samples(2, 3, 7)
    closed = torch.autograd.grad((weights * several(*layers)).sum(), layers)
    plain = torch.autograd.grad((weights * several(*layers)).sum(), layers, create_graph=True)
    for a, b in zip(closed, plain, strict=True):
        assert not a.requires_grad
        assert b.requires_grad
        torch.testing.assert_close(a, b)
