"""The same questions for every estimator: one is tested by being registered."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from mireg import estimators
from mireg.estimators import Estimator, InfoNCE

NAMES = estimators.names()
DIFFERENTIABLE = [name for name in NAMES if estimators.REGISTRY[name].is_differentiable]
INFORMATION = [name for name in NAMES if estimators.REGISTRY[name].measures == "mutual information"]
UNLEARNED = [name for name in NAMES if name != "infonce"]
VARIANTS = [
    *((name, {}) for name in NAMES),
    ("usable", {"ridge": 0.1}),
    ("kde", {"bandwidth": "auto"}),
    ("renyi", {"alpha": 1.01}),
    ("renyi", {"alpha": 0.5}),
    ("hsic", {"unbiased": True}),
    ("cka", {"unbiased": True}),
    ("gaussian", {"space": "sample"}),
    ("binning", {"slicing": "covarying", "noise": 0.5}),
]
ROUNDING = 1e-4


def samples(n: int, d: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def related(n: int, dx: int, dy: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Two layers, the second a noisy function of the first."""
    x = samples(n, dx, seed, torch.float64)
    y = torch.tanh(x @ samples(dx, dy, seed + 1, torch.float64)) + 0.3 * samples(n, dy, seed + 2, torch.float64)
    return [x.to(dtype), y.to(dtype)]


def made(variant: tuple[str, dict[str, Any]]) -> Estimator:
    name, options = variant
    return estimators.get(name, **options)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
class TestVariant:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
    def test_result_is_one_wide_number_per_pair(self, variant: tuple[str, dict[str, Any]], dtype: torch.dtype) -> None:
        layers = [samples(32, d, seed, dtype) for seed, d in enumerate((3, 1, 7))]
        nats = made(variant).successive(layers)
        assert nats.shape == (2,)
        assert nats.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
        assert torch.isfinite(nats).all()
        if variant[0] != "infonce":  # its critic has the shape of one chain of layers
            assert made(variant)(*layers[:2]).shape == ()
            torch.testing.assert_close(made(variant)(*layers[:2]), nats[0], atol=ROUNDING, rtol=ROUNDING)

    @pytest.mark.parametrize("n", [6, 33])
    def test_estimate_lies_below_the_ceiling(self, variant: tuple[str, dict[str, Any]], n: int) -> None:
        estimator = made(variant)
        x = samples(n, 2)
        assert estimator(x, x).item() <= estimator.ceiling(n) + ROUNDING

    def test_maps_are_flattened(self, variant: tuple[str, dict[str, Any]]) -> None:
        x, y = related(24, 8, 3)
        torch.testing.assert_close(made(variant)(x.reshape(24, 2, 2, 2), y), made(variant)(x, y))

    def test_a_constant_or_collapsed_layer_reads_nothing(self, variant: tuple[str, dict[str, Any]]) -> None:
        layer = samples(64, 4)
        rounding = torch.ones(64, 4) * 3 + 3e-7 * samples(64, 4, 1).sign()
        for collapsed in (torch.zeros(64, 4), torch.full((64, 4), 7.0), rounding):
            if variant[0] in ("ksg", "hard_binning") and collapsed is rounding:
                continue  # references see every digit
            assert abs(made(variant)(collapsed, layer).item()) < 0.05
            assert abs(made(variant)(layer, collapsed).item()) < 0.05
            assert abs(made(variant)(collapsed, collapsed).item()) < 0.05

    def test_duplicates_are_finite(self, variant: tuple[str, dict[str, Any]]) -> None:
        x, y = (rows.repeat(4, 1) for rows in related(8, 2, 2))
        assert math.isfinite(made(variant)(x, y).item())

    def test_order_of_the_samples_does_not_matter(self, variant: tuple[str, dict[str, Any]]) -> None:
        x, y = related(40, 3, 2)
        order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
        torch.testing.assert_close(made(variant)(x[order], y[order]), made(variant)(x, y), atol=ROUNDING, rtol=ROUNDING)

    def test_scale_and_shift_do_not_matter(self, variant: tuple[str, dict[str, Any]]) -> None:
        @given(scale=st.floats(1e-3, 1e3), shift=st.floats(-1.0, 1.0), seed=st.integers(0, 50))
        def check(scale: float, shift: float, seed: int) -> None:
            x, y = related(24, 3, 2, seed, torch.float64)
            moved = made(variant)(scale * (x + shift), y)
            # The floor is relative to the layer's mean, which a shift moves.
            torch.testing.assert_close(moved, made(variant)(x, y), atol=2e-2, rtol=1e-3)
            torch.testing.assert_close(moved, made(variant)(x + shift, y), atol=1e-6, rtol=1e-5)

        check()

    def test_layers_may_trade_places(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] in ("infonce", "usable") or variant[1].get("slicing") == "covarying":
            pytest.skip("one layer is read from the other")
        x, y = related(40, 3, 2)
        torch.testing.assert_close(made(variant)(x, y), made(variant)(y, x), atol=ROUNDING, rtol=ROUNDING)

    def test_gradient_is_that_of_the_estimate(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] not in DIFFERENTIABLE:
            x, y = related(12, 2, 3)
            assert not made(variant)(x.requires_grad_(), y).requires_grad
            return
        layers = [rows.requires_grad_() for rows in related(12, 2, 3, dtype=torch.float64)]
        if variant == ("kde", {"bandwidth": "auto"}):  # its kernels are in single precision
            information = made(variant)(*layers)
            step = 1e-2 * samples(12, 2, 9, torch.float64)
            (gradient,) = torch.autograd.grad(information, layers[0])
            moved = [made(variant)(layers[0] + sign * step, layers[1]).item() for sign in (-1, 1)]
            assert (gradient * step).sum().item() == pytest.approx((moved[1] - moved[0]) / 2, rel=0.05)
            return
        estimator = made(variant)
        estimator(*layers)  # gives a critic its shape
        assert torch.autograd.gradcheck(lambda x, y: estimator(x, y), layers, atol=1e-5)

    def test_gradient_through_a_collapsed_layer_is_bounded(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] not in DIFFERENTIABLE:
            pytest.skip("no gradient")
        y = samples(32, 8)
        for mean in (1.0, 100.0):
            for spread in (0.0, 1e-7, 1e-5, 1e-3, 1e-1):
                x = (mean * (1 + spread * samples(32, 8, 1))).requires_grad_()
                estimator: Any = made(variant)
                (gradient,) = torch.autograd.grad(estimator(x, y), x)
                bound = 100 / (math.sqrt(estimator.noise_floor) * mean * math.sqrt(8))
                assert torch.isfinite(gradient).all()
                assert gradient.norm().item() <= bound
        x = torch.zeros(32, 8, requires_grad=True)
        (gradient,) = torch.autograd.grad(made(variant)(x, y), x)
        assert torch.isfinite(gradient).all()

    def test_a_collapsed_layer_says_nothing(self, variant: tuple[str, dict[str, Any]]) -> None:
        x, y = samples(200, 4), torch.full((200, 3), 0.7) * (1 + 1e-8 * samples(200, 3, 1))
        if variant[0] not in ("ksg", "hard_binning"):  # which have no noise floor, and count every difference
            assert abs(made(variant)(x, y).item()) < 1e-3

    def test_training_is_told_of_values_that_are_not_finite(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] not in DIFFERENTIABLE:
            pytest.skip("not used in training")
        layers = [samples(32, 3, seed) for seed in range(4)]
        layers[2][5, 1] = torch.nan
        found = made(variant).estimate(layers)
        assert found.isfinite().tolist() == [True, False, False]

    def test_null_floor_repeats_and_draws_nothing_global(self, variant: tuple[str, dict[str, Any]]) -> None:
        layers = [*related(24, 2, 3), samples(24, 2, 5)]
        state = torch.get_rng_state()
        floor = made(variant).null_floor(*layers, permutations=2)
        assert torch.equal(torch.get_rng_state(), state)
        assert floor.shape == (2,)
        assert not floor.requires_grad
        torch.testing.assert_close(floor, made(variant).null_floor(*layers, permutations=2))

    def test_another_default_device_does_not_matter(self, variant: tuple[str, dict[str, Any]]) -> None:
        layers = related(24, 2, 3)
        floor = made(variant).null_floor(*layers, permutations=2)
        made_on_cpu = made(variant)
        with torch.device("meta"):
            torch.testing.assert_close(made_on_cpu.null_floor(*layers, permutations=2), floor)

    def test_options_show(self, variant: tuple[str, dict[str, Any]]) -> None:
        assert repr(made(variant)).startswith(type(made(variant)).__name__ + "(")


CLASSES = torch.tensor([0, 7, 3] * 8)


@pytest.mark.parametrize("variant", VARIANTS, ids=str)
class TestAboutATarget:
    LAYERS = (samples(24, 3), samples(24, 1, 1), samples(24, 7, 2), samples(24, 3, 3))

    @pytest.mark.parametrize("target", [CLASSES, samples(24, 1, 4)[:, 0], samples(24, 2, 4)], ids=["(n,)", "n", "n,k"])
    def test_one_number_a_layer(self, variant: tuple[str, dict[str, Any]], target: Tensor) -> None:
        nats = made(variant).about(self.LAYERS, target)
        assert nats.shape == (4,)
        assert torch.isfinite(nats).all()
        assert made(variant).about(self.LAYERS[:1], target).shape == (1,)

    def test_each_layer_as_if_alone(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] == "infonce":
            pytest.skip("a critic for each pair")
        for target in (CLASSES, samples(24, 2, 4)):
            alone = torch.cat([made(variant).about([layer], target) for layer in self.LAYERS])
            torch.testing.assert_close(made(variant).about(self.LAYERS, target), alone, atol=ROUNDING, rtol=ROUNDING)

    def test_names_of_the_classes_do_not_matter(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] in ("binning", "infonce"):
            pytest.skip("it sees random projections of the code")
        renamed = torch.tensor([5, 0, 1])[torch.tensor([0, 1, 2] * 8)]
        torch.testing.assert_close(made(variant).about(self.LAYERS, CLASSES), made(variant).about(self.LAYERS, renamed))

    def test_ignored_rows_are_as_if_absent(self, variant: tuple[str, dict[str, Any]]) -> None:
        target = CLASSES.clone()
        target[[0, 5, 23]] = -100
        kept = target != -100
        if variant[0] == "infonce":
            assert torch.isfinite(made(variant).about(self.LAYERS, target)).all()
            return
        without = made(variant).about([layer[kept] for layer in self.LAYERS], target[kept])
        torch.testing.assert_close(made(variant).about(self.LAYERS, target), without, atol=ROUNDING, rtol=ROUNDING)

    def test_gradient_reaches_the_layers_alone(self, variant: tuple[str, dict[str, Any]]) -> None:
        if variant[0] not in DIFFERENTIABLE:
            pytest.skip("no gradient")
        layers = [layer.clone().requires_grad_() for layer in self.LAYERS]
        target = samples(24, 2, 4).requires_grad_()
        made(variant).about(layers, target).sum().backward()
        assert all(layer.grad.isfinite().all() for layer in layers)
        assert target.grad is None

    def test_a_target_that_does_not_fit(self, variant: tuple[str, dict[str, Any]]) -> None:
        with pytest.raises(ValueError, match=r"target has shape \(5,\) and the layers have 24 rows"):
            made(variant).about(self.LAYERS, torch.zeros(5, dtype=torch.long))
        with pytest.raises(ValueError, match=r"target has shape \(24, 2\)"):
            made(variant).about(self.LAYERS, torch.zeros(24, 2, dtype=torch.long))
        with pytest.raises(TypeError, match="complex64"):
            made(variant).about(self.LAYERS, torch.zeros(24, dtype=torch.complex64))
        with pytest.raises(TypeError, match="ndarray"):
            made(variant).about(self.LAYERS, CLASSES.numpy())  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="NaN"):
            made(variant).about(self.LAYERS, torch.full((24,), torch.nan))
        with pytest.raises(ValueError, match="the target holds"):
            made(variant).about(self.LAYERS, torch.full((24,), torch.inf))

    @pytest.mark.parametrize("counted", [0, 2])
    def test_a_target_of_which_too_few_rows_count(self, variant: tuple[str, dict[str, Any]], counted: int) -> None:
        if counted and variant[1].get("bandwidth") == "auto":
            pytest.skip("it refuses layers as wide as that")
        layers = [layer.clone().requires_grad_() for layer in self.LAYERS]
        target = torch.arange(24)
        target[:counted] = 0
        nats = made(variant).about(layers, target)
        assert nats.isfinite().all()
        if counted == 0 and variant[0] != "infonce":
            assert not nats.any()
        if nats.requires_grad and variant[0] in DIFFERENTIABLE:
            nats.sum().backward()
            assert all(layer.grad.isfinite().all() for layer in layers)


@pytest.mark.parametrize("name", UNLEARNED)
def test_what_is_known_of_the_class_is_read(name: str) -> None:
    target = torch.arange(120) % 2
    knowing, blind = target[:, None] + 0.1 * samples(120, 1), samples(120, 1, 1)
    told, nothing = estimators.get(name).about([knowing, blind], target)
    assert told > 3 * nothing.clamp_min(0.01)


@pytest.mark.parametrize("name", NAMES)
class TestBadSamples:
    def test_what_is_no_tensor(self, name: str) -> None:
        with pytest.raises(TypeError, match=r"layer 1 is a ndarray: make a tensor of it"):
            estimators.get(name)(samples(4, 2), samples(4, 2).numpy())  # type: ignore[arg-type]

    def test_unequal_rows(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"layer 1 has 5 rows and layer 0 has 4"):
            estimators.get(name)(samples(4, 2), samples(5, 2))

    def test_a_single_row(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"at least 2 samples"):
            estimators.get(name)(samples(1, 2), samples(1, 2))

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_values_that_are_not_finite(self, name: str, value: float) -> None:
        x, y = related(8, 2, 3)
        y[0, 0] = y[3, 1] = value
        with pytest.raises(ValueError, match=r"layer 1 holds 2 NaN or infinite values of 24"):
            estimators.get(name)(x, y)

    def test_integers(self, name: str) -> None:
        with pytest.raises(TypeError, match=r"layer 0 has dtype torch.int64"):
            estimators.get(name)(torch.arange(8), samples(8, 1))

    def test_no_units(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"no units"):
            estimators.get(name)(torch.empty(8, 0), samples(8, 1))

    def test_one_layer(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"at least 2 layers"):
            estimators.get(name).successive([samples(8, 1)])

    def test_no_permutation(self, name: str) -> None:
        with pytest.raises(ValueError, match=r"permutations=0"):
            estimators.get(name).null_floor(samples(8, 1), samples(8, 1), permutations=0)


@pytest.mark.parametrize("name", UNLEARNED)
def test_dependence_reads_more_than_independence(name: str) -> None:
    x, y = related(200, 1, 1)
    estimator = estimators.get(name)
    assert estimator(x, y) > 2 * estimator.null_floor(x, y).clamp_min(0.01)


@pytest.mark.parametrize("name", UNLEARNED)
@pytest.mark.parametrize("n", [2, 3])
def test_fewest_samples(name: str, n: int) -> None:
    assert math.isfinite(estimators.get(name)(samples(n, 3), samples(n, 2, 1)).item())


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "binning"])
def test_wide_layers(name: str) -> None:
    layers = [samples(16, 65_536), samples(16, 10, 1), samples(16, 65_536, 2)]
    assert torch.isfinite(estimators.get(name).successive(layers)).all()


def test_information_is_told_from_dependence() -> None:
    assert not {"hsic", "cka", "usable"}.intersection(INFORMATION)
    assert {*INFORMATION}.issuperset(("kde", "renyi", "gaussian", "binning", "infonce", "ksg", "hard_binning"))
    assert estimators.REGISTRY["usable"].measures == "usable information"


def test_contract_names_are_registered() -> None:
    assert set(NAMES) >= {
        "usable",
        "kde",
        "renyi",
        "hsic",
        "cka",
        "gaussian",
        "binning",
        "infonce",
        "ksg",
        "hard_binning",
    }


def test_unknown_estimator_and_option() -> None:
    with pytest.raises(ValueError, match=f"choose from {', '.join(estimators.names())}"):
        estimators.get("mine")
    with pytest.raises(ValueError, match=r"estimator 'kde' has no option 'sigma': it has bandwidth, noise_floor"):
        estimators.get("kde", sigma=1.0)
    with pytest.raises(ValueError, match="bandwidth=None: give a positive number, several, or 'auto'"):
        estimators.get("kde", bandwidth=None)


def test_an_estimator_may_pass_its_options_on(monkeypatch: pytest.MonkeyPatch) -> None:
    class Wide(estimators.KDE):
        def __init__(self, **options: Any) -> None:
            super().__init__(bandwidth=2.0, **options)

    monkeypatch.setitem(estimators.REGISTRY, "wide", Wide)
    assert vars(estimators.get("wide", shared_noise=0.5))["shared_noise"] == 0.5
    with pytest.raises(ValueError, match=r"estimator 'wide': .* unexpected keyword argument 'sigma'"):
        estimators.get("wide", sigma=1.0)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("usable", {"ridge": 0.0}),
        ("usable", {"ridge": "best"}),
        ("usable", {"shared_noise": -1.0}),
        ("kde", {"bandwidth": 0.0}),
        ("kde", {"bandwidth": ()}),
        ("kde", {"bandwidth": "silverman"}),
        ("renyi", {"alpha": 1.0}),
        ("renyi", {"bandwidth": -1.0}),
        ("hsic", {"bandwidth": math.inf}),
        ("gaussian", {"noise": 0.0}),
        ("gaussian", {"space": "kernel"}),
        ("binning", {"bins": 1}),
        ("binning", {"slices": 0}),
        ("binning", {"softness": 0.0}),
        ("infonce", {"hidden": 0}),
        ("ksg", {"k": 0}),
        ("hard_binning", {"bins": 1}),
        ("kde", {"shared_noise": -1.0}),
        *((name, {"noise_floor": -1.0}) for name in UNLEARNED if name not in ("ksg", "hard_binning")),
        ("infonce", {"noise_floor": math.nan}),
    ],
)
def test_bad_options_are_named(name: str, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        estimators.get(name, **options)


@pytest.mark.parametrize("name", UNLEARNED)
def test_an_instance_is_rewarded_like_its_name(name: str) -> None:
    estimator = estimators.get(name)
    rewarded = estimator.for_training()
    assert {key: vars(rewarded)[key] for key in estimator.reward_options} == estimator.reward_options
    assert rewarded.for_training() is rewarded


def test_an_option_that_was_set_is_kept_in_training() -> None:
    assert vars(estimators.get("kde", bandwidth=0.3).for_training()) == {
        "bandwidth": (0.3,),
        "noise_floor": 1e-5,
        "shared_noise": 0.01,
    }


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name != "infonce"])
def test_a_layer_of_one_direction_that_the_target_does_not_have(name: str) -> None:
    """As when a stack of sigmoids begins to train: whatever is left beside that direction is rounding noise."""
    for seed in range(5):
        direction = samples(128, 1, seed)
        direction -= direction.mean()
        target = samples(128, 16, seed + 10)
        target -= direction @ (direction.mT @ target) / direction.square().sum()
        layer = torch.sigmoid(1e-2 * direction @ samples(1, 64, seed + 20)).requires_grad_()
        (nats,) = estimators.get(name).for_training().estimate_parts(samples(128, 8, seed + 30), [layer], [target])
        assert nats.isfinite()
        (gradient,) = torch.autograd.grad(nats, layer)
        assert gradient.norm().item() < 5


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name not in ("infonce", "usable")])
@pytest.mark.parametrize("training", [False, True])
def test_second_derivative_is_that_of_the_gradient(name: str, training: bool) -> None:
    estimator = estimators.get(name)
    # The noise that layers share is a constant for the gradient; the first layer sets it.
    first, layer = related(10, 2, 2, dtype=torch.float64)
    reward = estimator.for_training() if training else estimator
    layer.requires_grad_()
    for target in (samples(10, 2, 5, torch.float64), torch.arange(10) % 3):
        assert torch.autograd.gradgradcheck(
            lambda y, t=target: reward.estimate_about([first, y], t)[1], layer, atol=1e-4
        )


@pytest.mark.parametrize("name", [name for name in DIFFERENTIABLE if name not in ("infonce", "usable")])
def test_gradient_under_torch_func(name: str) -> None:
    reward = estimators.get(name).for_training()
    first, layer = related(16, 2, 3)
    target = samples(16, 4, 5)

    def nats(y: Tensor) -> Tensor:
        return reward.estimate_about([first, y], target)[1]

    (expected,) = torch.autograd.grad(nats(layer.requires_grad_()), layer)
    torch.testing.assert_close(torch.func.grad(nats)(layer.detach()), expected, atol=ROUNDING, rtol=ROUNDING)


def test_critic_keeps_to_its_layers() -> None:
    estimator = InfoNCE()
    estimator.successive([samples(8, 2), samples(8, 2), samples(8, 2)])
    with pytest.raises(ValueError, match=r"made for 2 pairs of layers, not 1"):
        estimator(samples(8, 2), samples(8, 2))
