"""What mi_loss promises about targets, modes, and every moment of a training step."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

import mireg
from mireg import estimators
from mireg.ablation.arms.reward import Shuffled
from mireg.balance import FIRST_RATIO, LARGEST_RATIO, SMALLEST_RATIO
from mireg.kept import projected, share_lost
from mireg.layers import Taps
from mireg.schedules import Constant
from mireg.term import INPUT_PART
from mireg.wrapper import DEFAULT_WEIGHT
from tests.networks import Recurrent, UNet, gpt2

N = 32


def network(outputs: int = 3) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.Tanh(), nn.Linear(16, 12), nn.Tanh(), nn.Linear(12, outputs))


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(N, 6, generator=generator)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


def values(model: mireg.MIRegularized) -> Tensor:
    return torch.stack(list(model.mi_terms().values()))


def reward(model: mireg.MIRegularized) -> float:
    """Mean over the trained layers of the last estimates, where all layers of :func:`network` were read."""
    kept, terms = model.regularizer.state_dict()["kept"], model.mi_terms()
    trained = list(kept)[1:]
    lost = share_lost(torch.stack(list(kept.values())), model.regularizer.estimator.certain).square().tolist()[1:]
    of_input = sum(share * terms[f"input→{name}"].item() for share, name in zip(lost, trained, strict=True))
    of_target = sum(terms[f"{name}→target"].item() for name in trained)
    seen = model.regularizer.seen
    assert seen is not None
    return (seen.item() * of_target + INPUT_PART * of_input) / len(trained)


class TestTargets:
    @pytest.mark.parametrize(
        "target",
        [
            batch()[1],
            batch()[1].int(),
            batch()[1] > 0,
            batch()[1][:, None],
            batch()[0][:, 0],
            batch()[0][:, :2],
            batch()[0].double(),
            torch.randn(N, 2, 4, 4, generator=torch.Generator().manual_seed(0)),
        ],
        ids=lambda target: f"{str(target.dtype)[6:]}{list(target.shape)}",
    )
    def test_of_samples(self, target: Tensor) -> None:
        net = network()
        model = mireg.wrap(net, weight=1.0)
        model(batch()[0])
        term = model.mi_loss(target)
        assert (term.ndim, term.dtype) == (0, torch.float32)
        assert list(model.mi_terms()) == ["input→1", "input→3", "input→target", "1→target", "3→target"]
        assert torch.isfinite(values(model)).all()
        assert term.item() == pytest.approx(-FIRST_RATIO * reward(model), rel=1e-5)  # the input can't be taught
        term.backward()
        assert all(p.grad.isfinite().all() and p.grad.any() for p in net[:4].parameters())

    def test_ignored_samples(self) -> None:
        x, y = batch()
        y[::3] = -100
        model = mireg.wrap(network(), weight=1.0)
        model(x)
        model.mi_loss(y).backward()
        (expected,) = model.regularizer.estimator.about([x], y)
        torch.testing.assert_close(model.mi_terms()["input→target"], expected)

    @pytest.mark.parametrize("missing", [torch.nan, torch.inf])
    @pytest.mark.parametrize("columns", [(), (3,)])
    def test_missing_values(self, columns: tuple[int, ...], missing: float) -> None:
        x, _ = batch()
        y = x[:, : len(columns) + 2].mean(1).reshape(N, *[1] * len(columns)).expand(N, *columns).clone()
        y[::3] = missing
        model = mireg.wrap(network(), weight=1.0)
        model(x)
        model.mi_loss(y).backward()
        assert "rewards information about the target and the input" in model.verdict
        known = y.isfinite().view(N, -1).all(1)
        (expected,) = model.regularizer.estimator.about([x[known]], y[known])
        torch.testing.assert_close(model.mi_terms()["input→target"], expected)
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_missing_inputs_that_the_network_fills_in(self) -> None:
        class Filling(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.rest = network()

            def forward(self, x: Tensor) -> Tensor:
                return self.rest(x.nan_to_num(0.0))

        x, y = batch()
        x[::3, 1] = torch.nan
        model = mireg.wrap(Filling(), weight=1.0)
        for _ in range(2):
            (cross_entropy(model(x), y) + model.mi_loss(y)).backward()
        assert torch.isfinite(values(model)).all()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert model.taps.chain[0] == "input"

    def test_tokens(self) -> None:
        model = mireg.wrap(gpt2(), weight=1.0)
        tokens = torch.randint(1, 50, (N, 7))
        for labels in (tokens, tokens.masked_fill(torch.rand(N, 7) < 0.5, -100), tokens.flatten()):
            model(input_ids=tokens)
            model.mi_loss(labels).backward()
            assert values(model)[-1] > 0.05
            assert torch.isfinite(values(model)).all()

    def test_every_token_ignored_is_finite(self) -> None:
        model = mireg.wrap(gpt2(), weight=1.0)
        tokens = torch.randint(1, 50, (N, 7))
        model(input_ids=tokens)
        model.mi_loss(torch.full_like(tokens, -100)).backward()
        about_target = [nats.item() for name, nats in model.mi_terms().items() if name.endswith("→target")]
        assert about_target == pytest.approx([0] * len(about_target), abs=1e-6)
        assert "rewards information about the input alone (the target tells too few rows apart)" in model.verdict
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)

    def test_pixels_on_layers_of_other_resolutions(self) -> None:
        images = torch.randn(N, 1, 16, 16)
        model = mireg.wrap(UNet(), ["input", "down.3", "middle.3", "up_block.3"], weight=1.0)
        model(images)
        sizes = {tuple(layer.shape[2:]) for layer in model._captured.values()}
        assert len(sizes) > 1
        pixels = (images[:, 0] > 0).long()
        model.mi_loss(pixels).backward()
        terms = model.mi_terms()
        assert terms["input→target"] > 0.2  # the class of a pixel is read off that pixel
        pixels[:, :8] = -100
        model(images)
        model.mi_loss(pixels).backward()
        assert model.mi_terms()["input→target"] > 0.2

    def test_one_of_another_type_is_named(self) -> None:
        model = mireg.wrap(network(), weight=1.0)
        model(batch()[0])
        with pytest.raises(TypeError, match="complex: give its real and imaginary parts"):
            model.mi_loss(torch.zeros(N) + 0j)

    @pytest.mark.parametrize("target", [torch.zeros(N - 1, dtype=torch.long), torch.zeros(()), torch.zeros(5, 2)])
    def test_one_that_does_not_fit_names_both_shapes(self, target: Tensor) -> None:
        model = mireg.wrap(network(), weight=1.0)
        model(batch()[0])
        shape = str(tuple(target.shape)).replace("(", r"\(").replace(")", r"\)")
        with pytest.raises(ValueError, match=rf"the target has shape {shape} and the last layer \(32, 12\)"):
            model.mi_loss(target)


class TestNothingToAdd:
    def test_eval_no_grad_and_weight_0(self) -> None:
        x, y = batch()
        model = mireg.wrap(network(), weight=1.0)

        def loss() -> Tensor:
            return cross_entropy(model(x), y) + model.mi_loss(y)

        model.eval()
        with torch.no_grad():
            assert torch.equal(loss(), cross_entropy(model.module(x), y))
        assert torch.equal(loss(), cross_entropy(model.module(x), y))
        model.train()
        with torch.no_grad():
            assert torch.equal(loss(), cross_entropy(model.module(x), y))
        assert model.regularizer.steps == 0
        assert mireg.wrap(network(), weight=0.0).mi_loss(y).item() == 0

    def test_a_pass_without_gradients_keeps_what_was_captured(self) -> None:
        """As in double DQN, where the same network also makes the target."""
        x, y = batch()
        plain, doubled = (mireg.wrap(network(), weight=1.0) for _ in range(2))
        for _ in range(2):
            plain(x)
            doubled(x)
            with torch.no_grad():
                doubled(batch(1)[0])
            assert torch.equal(doubled.mi_loss(y), plain.mi_loss(y))

    def test_a_network_without_a_chain_warns_once_with_the_cause(self) -> None:
        class Around(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)

            def forward(self, x: Tensor) -> Tensor:
                return x + self.second(self.first(x))

        x, y = batch()
        model = mireg.wrap(Around(), weight=1.0)
        model(x)
        with pytest.warns(
            UserWarning, match="the MI term adds nothing: a path runs round every inner module"
        ) as caught:
            assert model.mi_loss(y).item() == 0
        assert len(caught) == 1
        assert model.taps.reason in str(caught[0].message)
        assert model.verdict == f"inactive: {model.taps.reason}"
        (model(x).sum() + model.mi_loss(y)).backward()
        assert model.regularizer.steps == 2


def test_verdict_over_a_training() -> None:
    x, y = batch()
    model = mireg.wrap(network(), weight=mireg.schedules.Linear(1.0, 2))
    assert model.verdict == "not known yet: no training forward has run"
    model(x)
    model.mi_loss(y)
    active = "active: rewards information about {} in 3 layers from 'input' to '3' (usable)"
    assert model.verdict == active.format("the target and the input")
    model(x)
    with torch.no_grad():
        next(model.parameters()).mul_(1.01)  # an optimizer's step
    model.mi_loss()
    assert model.verdict == "inactive: its weight has fallen to 0 by step 2; model.restart() starts it again"
    model.restart()
    model(x)
    model.mi_loss()
    assert model.verdict == active.format("the input")
    assert mireg.wrap(network(), weight=0.0).verdict == "inactive: its weight is 0"


class TestBalance:
    """m against the gradients that autograd gives one by one."""

    @staticmethod
    def expected(model: mireg.MIRegularized, x: Tensor, y: Tensor, at: Callable[[Any], Tensor]) -> float:
        """|d task / d T_L| over |d information / d T_L|, on a pass of its own."""
        twin = copy.deepcopy(model)
        outputs, layers = twin.taps.run(x)
        (task,) = torch.autograd.grad(cross_entropy(outputs, y), at(layers), retain_graph=True)
        rows = list(layers.values())
        about_input, about_target = twin.regularizer.estimator.estimate_parts(rows[0], rows, [projected(rows[0]), y])
        share = INPUT_PART * share_lost(about_input.detach(), twin.regularizer.estimator.certain)[-1] ** 2
        (own,) = torch.autograd.grad((share * about_input[-1] + about_target[-1]) / (share + 1), at(layers))
        return float(task.norm() / own.norm())

    @pytest.mark.parametrize("scale", [1.0, 1024.0])
    def test_first_ratio(self, scale: float) -> None:
        x, y = batch()
        model = mireg.wrap(network(), weight=Constant(0.7))
        expected = self.expected(model, x, y, lambda layers: layers["3"])
        (scale * (cross_entropy(model(x), y) + model.mi_loss(y))).backward()
        model(x)
        term = model.mi_loss(y)
        ratio = model.regularizer.state_dict()["ratio"].item()
        assert SMALLEST_RATIO < expected < LARGEST_RATIO
        assert ratio == pytest.approx(expected, rel=1e-4)
        assert term.item() == pytest.approx(-0.7 * ratio * reward(model), rel=1e-4)

    @pytest.mark.parametrize("batch_first", [True, False])
    def test_last_layer_with_its_channels_last(self, batch_first: bool) -> None:
        """Sequences: the estimate sees a moved view of what the network goes on with."""
        torch.manual_seed(0)

        class Encoder(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=batch_first)
                self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
                self.head = nn.Linear(16, 3)

            def forward(self, x: Tensor) -> Tensor:
                return self.head(self.encoder(x))

        x, y = torch.randn((N, 5, 16) if batch_first else (5, N, 16)), batch()[1]
        model = mireg.wrap(Encoder(), weight=1.0)
        place = 1 if batch_first else 0
        (cross_entropy(model(x).mean(place), y) + model.mi_loss(y)).backward()
        seen = model.regularizer.state_dict()["seen"]

        twin: Any = model.unwrap()
        last = twin.encoder(x)
        (task,) = torch.autograd.grad(cross_entropy(twin.head(last).mean(place), y), last)
        assert seen[0].sqrt().item() == pytest.approx(task.norm().item(), rel=1e-3)

    def test_two_backward_passes(self) -> None:
        x, y = batch()
        once, twice = (mireg.wrap(network(), weight=1.0) for _ in range(2))
        (cross_entropy(once(x), y) + once.mi_loss(y)).backward()
        loss = cross_entropy(twice(x), y) + twice.mi_loss(y)
        loss.backward(retain_graph=True)
        twice.zero_grad()
        loss.backward()
        for a, b in zip(once.parameters(), twice.parameters(), strict=True):
            assert a.grad is not None
            assert b.grad is not None
            assert torch.equal(a.grad, b.grad)
        assert torch.equal(once.regularizer.state_dict()["seen"], twice.regularizer.state_dict()["seen"])

    def test_task_and_term_in_backward_passes_of_their_own(self) -> None:
        x, y = batch()
        model = mireg.wrap(network(), weight=1.0)
        for _ in range(3):
            model.zero_grad()
            cross_entropy(model(x), y).backward(retain_graph=True)
            model.mi_loss(y).backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())
        model(x)
        assert torch.isfinite(model.mi_loss(y))

    @pytest.mark.parametrize("task", [torch.inf, torch.nan])
    def test_a_gradient_that_says_nothing_leaves_it(self, task: float) -> None:
        """An overflow under a loss scale."""
        x, y = batch()
        model = mireg.wrap(network(), weight=Constant(1.0))

        def m(*seen: float) -> float:
            """What makes the weight relative, after a backward pass with these squared norms."""
            model.regularizer.balance.seen = torch.tensor(seen)
            model(x)
            return -model.mi_loss(y).item() / reward(model)

        assert m(task, 1.0) == pytest.approx(FIRST_RATIO)  # as before the first pass
        assert m(4.0, 16.0) == pytest.approx(0.5)
        assert m(task, 1.0) == pytest.approx(0.5)
        assert m(0.0, 0.0) == pytest.approx(0.5)
        assert m(1.0, 0.0) == pytest.approx(0.75)  # a silent last layer: a tenth of the way to 3
        assert 0.75 < m(16.0, 16.0) < 1

    def test_a_recurrent_network_read_by_its_outputs_is_hardly_pushed(self) -> None:
        """Its outputs over time are another tensor than the final state, where no gradient of the task is then seen."""
        torch.manual_seed(0)
        model = mireg.wrap(Recurrent(nn.GRU, batch_first=True, num_layers=2), weight=Constant(1.0))
        x = torch.randn(N, 7, 5)
        y = (x[:, -1, 0] > 0).long()
        for _ in range(3):
            (cross_entropy(model(x), y) + model.mi_loss(y)).backward()
        model(x)
        assert model.mi_loss(y).item() == pytest.approx(-SMALLEST_RATIO * reward(model), rel=1e-3)
        assert reward(model) > 0.01

    def test_dead_network(self) -> None:
        net = network()
        nn.init.zeros_(next(net[2].parameters()))
        model = mireg.wrap(net, weight=1.0)
        x, y = batch()
        for _ in range(3):
            model.zero_grad()
            (cross_entropy(model(x), y) + model.mi_loss(y)).backward()
            assert all(p.grad.isfinite().all() for p in model.parameters())


READS: list[Callable[[mireg.MIRegularized], object]] = [
    lambda model: model.state_dict(),
    lambda model: pickle.dumps(model.regularizer.state_dict()),
    lambda model: copy.deepcopy(model.regularizer.state_dict()),
    lambda model: model.mi_terms(),
    lambda model: model.verdict,
    copy.deepcopy,
    pickle.dumps,
]


def maps() -> nn.Sequential:
    torch.manual_seed(0)
    stack = [nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU()]
    return nn.Sequential(*stack, nn.Conv2d(4, 4, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(24, 3))


def ten_steps(
    make: Callable[[], nn.Module], labels: bool, read: Callable[[mireg.MIRegularized], object], moment: int
) -> list[Tensor]:
    """Parameters after two steps, one that is looked at in a moment of it, and ten more."""
    model = mireg.wrap(make(), weight=1.0)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(13):

        def look(now: int, step: int = step) -> None:
            if (step, now) == (2, moment):
                read(model)

        x, y = batch(step)
        output = model(x)
        look(0)
        loss = cross_entropy(output, y) + (model.mi_loss(y) if labels else model.mi_loss())
        look(1)
        optimizer.zero_grad()
        look(2)
        loss.backward()
        look(3)
        optimizer.step()
        look(4)
    return [p.detach() for p in model.parameters()]


@pytest.mark.parametrize("moment", range(5), ids=["forward", "mi_loss", "zero_grad", "backward", "step"])
@pytest.mark.parametrize("labels", [True, False], ids=["target", "label-free"])
@pytest.mark.parametrize("make", [network, maps])
def test_reading_never_changes_training(make: Callable[[], nn.Module], labels: bool, moment: int) -> None:
    expected = ten_steps(make, labels, lambda model: None, moment)
    for read in READS:
        assert all(torch.equal(a, b) for a, b in zip(ten_steps(make, labels, read, moment), expected, strict=True))


def test_wrapping_leaves_torch_as_it_was() -> None:
    import torch._dynamo.config
    import torch._functorch.config
    import torch._inductor.config

    def settings() -> dict[str, Any]:
        found = {
            name: read()
            for name, read in vars(torch).items()
            if name.startswith(("get_", "is_", "are_")) and callable(read) and takes_nothing(read)
        }
        for config in (torch._functorch.config, torch._dynamo.config, torch._inductor.config):
            found |= {f"{config.__name__}.{name}": value for name, value in config.get_config_copy().items()}
        for backend in (torch.backends.cudnn, torch.backends.cuda.matmul, torch.backends.mkldnn):
            names = ("enabled", "benchmark", "deterministic", "allow_tf32", "fp32_precision")
            found |= {f"{backend}.{name}": getattr(backend, name, None) for name in names}
        return {name: v.tolist() if isinstance(v, Tensor) else v for name, v in found.items()}

    def takes_nothing(function: Callable[..., Any]) -> bool:
        try:
            return not inspect.signature(function).parameters
        except ValueError:  # a function of the C library
            return function in (torch.is_grad_enabled, torch.is_inference_mode_enabled, torch.get_num_threads)

    net, (x, y) = network(), batch()
    before = settings()
    model = mireg.wrap(net, weight=1.0)
    assert settings() == before
    (cross_entropy(model(x), y) + model.mi_loss(y)).backward()
    model.unwrap()
    assert settings() == before


def test_complex_weights_train() -> None:
    class Wave(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(6, 12)
            self.turn = nn.Parameter(torch.randn(12, 12, dtype=torch.complex64) / 4)
            self.second, self.head = nn.Linear(12, 12), nn.Linear(12, 3)

        def forward(self, x: Tensor) -> Tensor:
            turned = (self.first(x).to(torch.complex64) @ self.turn).abs()
            return self.head(self.second(turned).tanh())

    x, y = batch()
    model = mireg.wrap(Wave(), weight=1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    before = model.turn.detach().clone()
    for _ in range(3):
        (cross_entropy(model(x), y) + model.mi_loss(y)).backward()
        optimizer.step()
    assert torch.isfinite(torch.view_as_real(model.turn)).all()
    assert not torch.equal(model.turn, before)


def test_regression_trains() -> None:
    x, _ = batch()
    model = mireg.wrap(network(2), weight=1.0)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = []
    for _ in range(30):
        task = mse_loss(model(x), x[:, :2])
        optimizer.zero_grad()
        (task + model.mi_loss(x[:, :2])).backward()
        optimizer.step()
        losses.append(task.item())
    assert losses[-1] < losses[0] / 2


def accuracy(arm: str) -> float:
    """Of a deep sigmoid network after 200 steps, without the term, with it, or with its rows shuffled."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    layers: list[nn.Module] = []
    for width in (6, *[32] * 6):
        linear = nn.Linear(width, 32)
        nn.init.orthogonal_(linear.weight)
        layers += [linear, nn.Sigmoid()]
    network, estimator = nn.Sequential(*layers, nn.Linear(32, 3)), estimators.get("usable").for_training()
    kind = Shuffled(estimator) if arm == "shuffled" else estimator
    regularizer = mireg.MIRegularizer(kind, Constant(0.0) if arm == "none" else DEFAULT_WEIGHT)
    model = mireg.MIRegularized(network, Taps(network), regularizer)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)

    def samples(n: int) -> tuple[Tensor, Tensor]:
        x = torch.randn(n, 6, generator=generator)
        return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()

    for _ in range(200):
        x, y = samples(64)
        loss = cross_entropy(model(x), y) + model.mi_loss(y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    x, y = samples(1000)
    return (model.eval()(x).argmax(1) == y).float().mean().item()


def test_shuffled_rows_give_no_gain() -> None:
    none = accuracy("none")
    assert accuracy("mi") > none + 0.05
    assert accuracy("shuffled") < none + 0.02
