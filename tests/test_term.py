"""The term on layers given by hand, the balance of its weight, and its state."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import mireg
from mireg import estimators
from mireg.ablation.arms.reward import Shuffled
from mireg.balance import FIRST_RATIO
from mireg.kept import CLEAR, MEMORY, Kept, projected, share_lost
from mireg.schedules import Constant
from mireg.term import FEWEST_ROWS, INPUT_PART, PER_POSITION
from mireg.turns import GROWS


def network() -> nn.Sequential:
    torch.manual_seed(0)
    parts: list[nn.Module] = []
    for width in (6, *[16] * 4):
        parts += [nn.Linear(width, 16), nn.Tanh()]
    return nn.Sequential(*parts, nn.Linear(16, 3))


def batch(step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    return torch.randn(32, 6, generator=generator), torch.randint(3, (32,), generator=generator)


def train(model: mireg.MIRegularized, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        x, y = batch(step)
        loss = cross_entropy(model(x), y) + model.mi_loss(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def adam(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adam(model.parameters(), 1e-3)


def weights(model: nn.Module) -> list[Tensor]:
    return [p.detach() for p in model.parameters()]


def assert_equal(a: list[Tensor], b: list[Tensor]) -> None:
    assert len(a) == len(b)
    assert all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def term(**options: Any) -> mireg.MIRegularizer:
    return mireg.MIRegularizer(estimators.get("usable").for_training(), Constant(1.0), **options)


def layers_of(count: int, rows: int = 16, width: int = 3) -> tuple[dict[str, Tensor], Tensor]:
    """Layers of which each later one holds less of the first, and classes."""
    torch.manual_seed(0)
    x = torch.randn(rows, width)
    layers = {f"{k}": (x + 0.3 * k * torch.randn(rows, width)).requires_grad_(k > 0) for k in range(count)}
    return layers, (x[:, 0] > 0).long()


@pytest.mark.parametrize(("name", "why"), [("infonce", "learns a critic"), ("ksg", "has no gradient")])
def test_estimators_that_can_only_measure_are_refused(name: str, why: str) -> None:
    with pytest.raises(ValueError, match=f"estimator '{name}' {why}: it can measure, not regularize"):
        mireg.wrap(network(), estimator=name)


@pytest.mark.parametrize("weight", [-1.0, torch.inf, torch.nan])
def test_a_schedule_that_gives_no_weight_is_refused(weight: float) -> None:
    with pytest.raises(ValueError, match=f"weight is {weight!r} at step 2"):
        mireg.MIRegularizer(estimators.get("usable"), lambda step: weight if step == 2 else 1.0).start_at(2)


@pytest.mark.parametrize(
    ("kept", "lost"),
    [
        ([2.0, 1.0, 1.5, 3.0, 0.0], [0.0, 0.5, 0.25, 0.0, 1.0]),
        ([4.0, -1.0], [0.0, 1.0]),
        ([0.0, 1.0, 0.5], [0.0, 0.0, 0.5]),
        ([-1.0, -2.0], [0.0, 0.0]),
    ],
)
def test_share_lost(kept: list[float], lost: list[float]) -> None:
    assert share_lost(torch.tensor(kept)).tolist() == lost


def test_share_lost_of_an_input_that_tells_little_of_itself() -> None:
    """Of few rows nobody can tell: what is lost counts as a share of what is certain."""
    kept = torch.tensor([0.25, 0.0, -0.5])
    assert share_lost(kept, certain=1.0).tolist() == [0.0, 0.25, 0.75]
    assert share_lost(4 * kept, certain=1.0).tolist() == share_lost(4 * kept).tolist() == [0.0, 1.0, 1.0]


@pytest.mark.parametrize("supervised", [True, False])
def test_value(supervised: bool) -> None:
    """The first use, of all layers, written out."""
    layers, y = layers_of(4)
    rows, first = list(layers.values()), layers["0"]
    regularizer = term()
    found = regularizer.step(layers, y if supervised else None)
    about_input = regularizer.estimator.about(rows, projected(first))
    lost = share_lost(about_input.detach())
    assert (lost[1:] > 0.1).all()
    if supervised:
        reward = regularizer.estimator.about(rows, y) + INPUT_PART * lost.square() * about_input
    else:
        reward = INPUT_PART * lost.square() * about_input
    torch.testing.assert_close(found, -FIRST_RATIO * reward[1:].mean())  # nothing is known of the task's gradient yet
    assert list(regularizer.terms) == [f"0→{k}" for k in (1, 2, 3)] + [f"{k}→target" for k in range(4) if supervised]


def test_a_target_that_no_layer_knows_of() -> None:
    """Its estimate is noise: the term is the one without a target, until some layer knows of it."""
    layers, _ = layers_of(4, rows=64, width=40)
    y = torch.randint(10, (64,), generator=torch.Generator().manual_seed(3))
    regularizer = term()
    found = regularizer.step(layers, y)
    assert max(value for name, value in regularizer.terms.items() if name.endswith("target")) < 0
    torch.testing.assert_close(found, term().step(layers), rtol=0, atol=0)
    layers["0"] = torch.nn.functional.one_hot(y, 40).float()
    known = term()
    assert abs(known.step(layers, y) - term().step(layers)) > 1e-4  # type: ignore[operator]


def test_how_clearly_a_target_is_seen() -> None:
    kept = Kept()
    assert kept.seen(torch.tensor([-0.5, -0.1])) == 0
    assert Kept().seen(torch.tensor([-0.5, CLEAR / 2])) == 0.5
    assert Kept().seen(torch.tensor([1.0, -3.0])) == 1
    assert kept.seen(torch.tensor([0.4, -0.1])) == 0  # the mean, and not a lucky batch
    before = kept.best
    assert kept.seen(torch.tensor([torch.nan, 0.1])) == 0  # a batch that overflows is forgotten
    assert kept.best == before
    assert Kept().seen(torch.tensor([torch.nan])) == 0


@pytest.mark.parametrize("supervised", [True, False])
@pytest.mark.parametrize("age", [0, 1, 3])
@pytest.mark.parametrize("count", [2, 3, 4, 5, 12])
def test_layers_take_turns(count: int, age: int, supervised: bool) -> None:
    """Over a round the rewards add up to those of all layers at each step, and the last is always among them."""
    layers, y = layers_of(count)
    target = y if supervised else None
    turns = max(1, min(1 + age, (count - 1) // 2))
    regularizer = term()
    whole = regularizer.step(layers, target)  # the first use reads all
    assert whole is not None
    regularizer.start_at(age * GROWS)
    total, read = torch.zeros(()), []
    for _ in range(turns):
        regularizer.terms.clear()
        each = regularizer.step(layers, target)
        assert each is not None
        total = total + each
        read += [name.removesuffix("→target") if supervised else name.removeprefix("0→") for name in regularizer.terms]
    torch.testing.assert_close(total, turns * whole)
    of_round, of_all = (torch.autograd.grad(loss, list(layers.values())[1:]) for loss in (total, turns * whole))
    torch.testing.assert_close(of_round, of_all)
    *between, last = list(layers)[1:]
    assert sorted(name for name in read if name in layers and name != "0") == sorted([*between, *[last] * turns])


def test_what_a_layer_keeps_is_a_running_mean() -> None:
    layers, y = layers_of(3)
    regularizer = term()
    regularizer.step(layers, y)
    before = regularizer.state_dict()["kept"]["2"]
    layers["2"] = torch.randn(16, 3, requires_grad=True)
    regularizer.step(layers, y)
    now = regularizer.terms["0→2"]
    assert abs(now - before) > 0.1
    torch.testing.assert_close(regularizer.state_dict()["kept"]["2"], MEMORY * before + (1 - MEMORY) * now)


def test_a_batch_that_overflows_is_forgotten() -> None:
    layers, y = layers_of(3)
    for sound_first in (True, False):
        regularizer = term()
        if sound_first:
            regularizer.step(layers, y)
        with pytest.warns(RuntimeWarning, match="not finite"):
            regularizer.step({**layers, "1": torch.full((16, 3), torch.inf, requires_grad=True)}, y)
        found = regularizer.step(layers, y)
        torch.testing.assert_close(found, term().step(layers, y))


def test_the_unit_of_noise_is_of_the_first_layer_in_every_turn() -> None:
    layers, y = layers_of(5)
    layers = {name: (0.1 * layer).detach().requires_grad_(name != "0") for name, layer in layers.items()}
    whole = term()
    whole.step(layers, y)
    regularizer = term()
    regularizer.step(layers, y)
    regularizer.start_at(2 * GROWS)
    for _ in range(3):  # some leave out the first
        regularizer.step(layers, y)
        for name, nats in regularizer.terms.items():
            torch.testing.assert_close(nats, whole.terms[name])


def test_positions_have_a_smaller_weight() -> None:
    """Above one half, a language model ends worse with the term (docs/notebook.md)."""
    maps = {f"{k}": torch.randn(8, 3, 6, requires_grad=k > 0) for k in range(3)}
    classes = torch.arange(48).view(8, 6) % 3
    of_positions = term(samples=64).step(maps, classes)
    rows = {name: layer.movedim(1, -1).reshape(48, 3) for name, layer in maps.items()}
    of_samples = term(samples=64).step(rows, classes.flatten())
    assert of_positions is not None
    assert of_samples is not None
    assert of_samples != 0
    assert (of_positions / of_samples).item() == pytest.approx(PER_POSITION)
    assert 0 < PER_POSITION <= 0.5


def test_what_the_network_fills_in_is_not_information() -> None:
    layers, y = layers_of(3)
    broken, filled = layers["0"].clone(), layers["0"].clone()
    broken[::5, 1], filled[::5, 1] = torch.nan, 0.0
    found, expected = (term().step({**layers, "0": first}, y) for first in (broken, filled))
    assert found is not None
    assert torch.isfinite(found)
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("rows", range(1, FEWEST_ROWS + 1))
def test_a_batch_too_small_adds_nothing(rows: int) -> None:
    layers, y = layers_of(3, rows)
    regularizer = term()
    found = regularizer.step(layers, y)
    if rows < FEWEST_ROWS:
        assert found is None
        assert regularizer.note == f"a batch of {rows} samples is too small to say anything of information"
    else:
        assert found is not None
    assert regularizer.steps == 1


def test_too_few_rows_of_a_class_leave_the_part_of_the_input() -> None:
    """400 classes in 128 rows: most are alone in their class, and nothing says what that looks like."""
    torch.manual_seed(0)
    layers, _ = layers_of(4, 128)
    alone = torch.arange(128)
    seven, eight = alone.clone(), alone.clone()
    seven[121:124], seven[124:] = 121, 124
    eight[120:124], eight[124:] = 120, 124
    assert FEWEST_ROWS == 8
    for y, share in ((alone, 0.0), (seven, 0.0), (eight, 8 / 128), (alone.clamp(max=100), 0.0)):  # at last one class
        regularizer = term()
        found = regularizer.step(layers, y)
        assert found is not None
        assert regularizer.counted is not None
        assert regularizer.counted.item() == pytest.approx(share)
        if not share:
            label_free = term().step(layers)
            assert label_free is not None
            torch.testing.assert_close(found, label_free)
            grown = list(layers.values())[1:]
            ours, theirs = (torch.autograd.grad(t, grown) for t in (found, label_free))
            torch.testing.assert_close(ours, theirs)


def test_shuffled_rows_teach_nothing() -> None:
    torch.manual_seed(0)
    x = torch.randn(64, 6)
    weight = (torch.randn(6, 8) / 6**0.5).requires_grad_()
    y = (x[:, 0] > 0).long() + (x[:, 1] > 0).long()
    inner = estimators.get("usable").for_training()

    def gradient(estimator: estimators.Estimator) -> Tensor:
        hidden = torch.sigmoid(x @ weight)
        nats = estimator.estimate_parts(x, [hidden], [projected(x), y])
        return torch.autograd.grad(nats.sum(), weight)[0]

    true = gradient(inner)
    shuffled = torch.stack([gradient(Shuffled(inner)) for _ in range(100)])
    assert shuffled.mean(0).norm() < 0.2 * true.norm()


@pytest.mark.parametrize("order", ["together", "task first", "term first"])
def test_weight_follows_the_task_in_one_backward_pass_or_two(order: str) -> None:
    model = mireg.wrap(network())
    x, y = batch(0)
    task, term = cross_entropy(model(x), y), model.mi_loss(y)
    if order == "together":
        (task + term).backward()
    else:
        for part in (task, term) if order == "task first" else (term, task):
            part.backward(retain_graph=True)
    by_task, by_term = model.regularizer.state_dict()["seen"].sqrt()
    one = mireg.wrap(network())
    logits = one(x)
    (cross_entropy(logits, y) + one.mi_loss(y)).backward()
    expected = one.regularizer.state_dict()["seen"].sqrt()
    torch.testing.assert_close(torch.stack([by_task, by_term]), expected)
    assert expected[0] > 0


def test_a_gradient_penalty_is_not_the_task() -> None:
    def seen(penalise: bool) -> Tensor:
        model = mireg.wrap(network())
        x, y = batch(0)
        x.requires_grad_()
        logits = model(x)
        loss = cross_entropy(logits, y) + model.mi_loss(y)
        loss.backward(retain_graph=True)
        if penalise:
            torch.autograd.grad(logits.sum() * 1e3, x, create_graph=True)
        found: Tensor = model.regularizer.state_dict()["seen"]
        return found

    torch.testing.assert_close(seen(True), seen(False))


def test_random_numbers_are_the_users() -> None:
    model = mireg.wrap(network())
    state = torch.get_rng_state()
    train(model, adam(model), range(3))
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize("stop", [0, 3, 4])
def test_resumed_is_uninterrupted(stop: int) -> None:
    def fresh() -> tuple[mireg.MIRegularized, torch.optim.Optimizer]:
        model = mireg.wrap(network(), weight=0.5)
        return model, adam(model)

    whole, optimizer = fresh()
    train(whole, optimizer, range(8))
    model, optimizer = fresh()
    train(model, optimizer, range(stop))
    saved = pickle.dumps((model.state_dict(), optimizer.state_dict(), model.regularizer.state_dict()))
    again, optimizer = fresh()
    parts: tuple[Any, ...] = again, optimizer, again.regularizer
    for part, state in zip(parts, pickle.loads(saved), strict=True):
        part.load_state_dict(state)
    train(again, optimizer, range(stop, 8))
    assert_equal(weights(again), weights(whole))


@pytest.mark.parametrize("steps", [0, 3])
@pytest.mark.parametrize("twin_of", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copies_and_pickles_go_on_alike(
    steps: int, twin_of: Callable[[mireg.MIRegularized], mireg.MIRegularized]
) -> None:
    model = mireg.wrap(network(), weight=0.5)
    train(model, adam(model), range(steps))
    twin = twin_of(model)
    assert weights(twin)[-1].data_ptr() != weights(model)[-1].data_ptr()
    train(model, adam(model), range(steps, steps + 4))
    train(twin, adam(twin), range(steps, steps + 4))
    assert_equal(weights(twin), weights(model))


def test_restarted_it_is_as_new() -> None:
    layers, y = layers_of(5)
    regularizer = term()
    for _ in range(2):
        regularizer.step(layers, y)
    regularizer.balance.seen = torch.ones(2)
    regularizer.restart()
    assert regularizer.state_dict() == term().state_dict()


def test_a_class_per_position_is_rewarded_a_quarter() -> None:
    """The same rows as positions of sequences, and as samples."""
    torch.manual_seed(0)
    sequences = {name: torch.randn(8, 5, 4).requires_grad_() for name in "abc"}
    y = torch.randint(3, (8, 4))
    rows = {name: layer.detach().movedim(1, 2).flatten(0, 1).requires_grad_() for name, layer in sequences.items()}
    of_positions, of_samples = term().step(sequences, y), term().step(rows, y.flatten())
    assert of_positions is not None
    assert of_samples is not None
    assert of_positions.item() == pytest.approx(0.25 * of_samples.item(), rel=1e-4)


@pytest.mark.parametrize(("name", "scale"), [("usable", 1.0), ("kde", 1.0), ("binning", 6.0)])
def test_an_estimate_is_rewarded_at_its_scale_and_reported_in_nats(name: str, scale: float) -> None:
    layers, y = layers_of(4)
    found = {}
    for factor in (scale, 1.0):
        estimator: Any = estimators.get(name).for_training()
        assert estimator.reward_scale == Shuffled(estimator).reward_scale == scale
        estimator.reward_scale = factor
        regularizer = mireg.MIRegularizer(estimator, Constant(1.0))
        reward = regularizer.step(layers, y)
        assert reward is not None
        reward.backward()
        assert regularizer.balance.seen is not None
        found[factor] = reward.detach(), regularizer.terms, regularizer.balance.seen[1]
        for layer in layers.values():
            layer.grad = None
    torch.testing.assert_close(found[scale][0], scale * found[1.0][0])
    torch.testing.assert_close(found[scale][1], found[1.0][1])
    # The bounds on the weight are for the scaled estimate, whose gradient is as many times as large.
    torch.testing.assert_close(found[scale][2], scale**2 * found[1.0][2])


def test_fill_values_of_the_input_are_not_information() -> None:
    model, (x, y) = mireg.wrap(network()), batch(0)
    x[0, 0] = 9.96921e36
    model(x)
    assert model.mi_loss(y).isfinite()
