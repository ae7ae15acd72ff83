"""What a user may do wrong, and what they are told."""

from __future__ import annotations

import copy
import logging
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mireg
from mireg import estimators, schedules
from mireg import kept as method
from mireg.ablation.arms.reward import Shuffled
from mireg.rows import choose_rows
from mireg.schedules import Constant
from mireg.wrapper import PUBLIC, UNUSED


def network() -> nn.Sequential:
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def test_attributes_and_items_fall_through() -> None:
    net = network()
    net.note = "mine"  # type: ignore[assignment]
    model = mireg.wrap(net)
    assert model.note == "mine"
    assert model[0] is net[0]
    with pytest.raises(AttributeError, match="nope"):
        _ = model.nope


def test_items_are_set_deleted_and_appended() -> None:
    net, head = network(), nn.Linear(8, 3)
    model = mireg.wrap(net)
    model[4] = head
    assert net[4] is head
    del model[3]
    model.append(nn.Tanh())
    assert [type(part) for part in model] == [nn.Linear, nn.Tanh, nn.Linear, nn.Linear, nn.Tanh]
    assert list(dict(model.named_children())) == list(dict(model.module.named_children())) == list("01234")
    assert model(X).shape == (12, 3)


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.fc = nn.Linear(4, 8), nn.Linear(8, 5)
        self.register_buffer("offset", torch.zeros(()))
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.a(x).tanh()) * self.scale + self.offset


class TestWrites:
    def test_reach_the_network(self) -> None:
        net: Any = Scaled()
        model: Any = mireg.wrap(net)
        before = model(X)
        model.scale = 2.0
        model.offset = torch.ones(())
        assert (net.scale, net.offset.item()) == (2.0, 1.0)
        assert torch.equal(model(X), net(X))
        assert not torch.equal(model(X), before)
        assert "scale" not in vars(model)

    def test_a_module_is_replaced(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model(X)
        model.fc = head = nn.Linear(8, 2)
        assert net.fc is head
        assert model(X).shape == (12, 2)
        assert len(list(model.parameters())) == 4
        assert model.state_dict()["fc.weight"].shape == (2, 8)

    def test_a_parameter_is_replaced_and_deleted(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model.gain = nn.Parameter(torch.ones(3))
        assert "gain" in dict(net.named_parameters())
        assert "gain" in model.state_dict()
        del model.gain
        assert not hasattr(net, "gain")
        with pytest.raises(AttributeError, match="nope"):
            del model.nope

    def test_the_wrapper_keeps_what_is_its_own(self) -> None:
        net = Scaled()
        model = mireg.wrap(net)
        model.forward = model.forward  # as libraries do that decorate it
        model._note = 1
        assert "forward" not in vars(net)
        assert not hasattr(net, "_note")
        assert model(X).shape == (12, 5)
        model.eval()
        assert not any(each.training for each in (model, net, net.fc))
        model.train()
        assert model.training
        assert net.fc.training

    def test_copies_and_pickles(self) -> None:
        model: Any = mireg.wrap(Scaled())
        model(X)
        model.scale = 3.0
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            twin.scale = 5.0
            assert (twin.module.scale, model.module.scale) == (5.0, 3.0)
            torch.testing.assert_close(twin(X) * 3, model(X) * 5)
            twin.mi_loss()


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"estimator": "nope"}, ValueError, "unknown estimator 'nope'"),
        ({"weight": -1.0}, ValueError, "weight=-1.0: must be finite"),
        ({"weight": "much"}, TypeError, "weight='much'"),
        ({"samples": 7}, ValueError, "samples=7: an estimate needs at least 8"),
        ({"steps": 0}, ValueError, "steps=0: the weight falls to 0 over at least 1 step"),
        ({"weight": Constant(1.0), "steps": 5}, ValueError, "steps=5: the weight is a schedule"),
        ({"layers": "nope"}, ValueError, "matches no module"),
        ({"layers": [nn.Tanh()]}, TypeError, r"layers=Tanh\(\): give 'auto', a module name"),
        ({"estimator": mireg.estimators.KDE}, TypeError, "estimator=<class .*KDE'>: give a name or an instance"),
        ({"estimator": None}, TypeError, "estimator=None: give a name or an instance"),
        ({"samples": "128"}, ValueError, "samples='128': an estimate needs at least 8"),
        ({"steps": "100"}, ValueError, "steps='100': the weight falls to 0 over at least 1 step"),
        ({"weight": 1e39}, ValueError, r"weight=1e\+39: must be finite"),
        ({"weight": lambda step: None}, ValueError, "weight is None at step 0"),
    ],
)
def test_bad_options(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mireg.wrap(network(), **options)


def test_wrapped_twice_or_not_at_all() -> None:
    with pytest.raises(TypeError, match="wrapped already"):
        mireg.wrap(mireg.wrap(network()))
    with pytest.raises(TypeError, match="0 is wrapped already"):
        mireg.wrap(nn.Sequential(mireg.wrap(network()), nn.Linear(2, 2)))
    with pytest.raises(TypeError, match=r"takes a torch\.nn\.Module, not function"):
        mireg.wrap(lambda x: x)  # type: ignore[arg-type]


@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
def test_a_scripted_module_is_refused() -> None:
    module = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 2))
    for made in (torch.jit.script(module), torch.jit.trace(module, torch.randn(8, 4))):
        with pytest.raises(TypeError, match=r"scripted or traced .* wrap the module that it was made of"):
            mireg.wrap(made)
        with pytest.raises(TypeError, match=r"^1 is scripted or traced"):
            mireg.wrap(nn.Sequential(nn.Linear(4, 4), made))


def test_a_weight_of_numpy() -> None:
    weight: Any = np.float32(4)
    assert mireg.wrap(network(), weight=weight).regularizer.weight(0) == 4


def test_a_refused_target_may_be_corrected() -> None:
    model = mireg.wrap(network())
    model(X)
    with pytest.raises(ValueError, match="the target has shape"):
        model.mi_loss(Y[:5])
    assert model.mi_loss(Y) != 0


def test_one_term_a_forward() -> None:
    model = mireg.wrap(network(), weight=0.5)
    model(X)
    model.mi_loss()
    with pytest.raises(RuntimeError, match="nothing to work on: call it once after each forward"):
        model.mi_loss()


@pytest.mark.parametrize("rows", [1, 7])
def test_a_batch_too_small_to_say_anything(rows: int) -> None:
    model = mireg.wrap(network())
    model(X[:rows])
    assert model.mi_loss(torch.zeros(rows, dtype=torch.long)).item() == 0  # without a warning: the last of an epoch
    assert f"a batch of {rows} samples is too small to say anything of information" in model.verdict
    assert model.regularizer.steps == 1
    model(X[:rows])
    model.mi_loss()
    model(X)
    assert model.mi_loss(Y).requires_grad
    assert model.verdict.startswith("active")


def test_a_network_in_evaluation_mode_stays_in_it() -> None:
    model = mireg.wrap(network().eval(), weight=0.5)
    assert not model.training
    model.train()
    model.module.eval()
    model(X)
    assert model._captured is None
    assert model.mi_loss(Y).item() == 0
    assert model.regularizer.steps == 0


def test_nothing_is_left_on_the_parameters() -> None:
    net = network()
    net.spare = nn.Linear(2, 2)
    net.forward = lambda x: net[:-1](x)
    model = mireg.wrap(net, layers=["0", "1"], weight=0.5)
    model(X)
    (model(X).sum() + model.mi_loss()).backward()
    model(X).sum().backward()
    model.unwrap()
    assert not any(p._backward_hooks for p in net.parameters())


def test_frozen_layers_warn_once() -> None:
    net = network()
    for parameter in net[:4].parameters():
        parameter.requires_grad_(False)
    model = mireg.wrap(net, weight=0.5)
    model(X)
    with pytest.warns(UserWarning, match="adds nothing: no layer that it sees depends on") as warned:
        assert model.mi_loss(Y).item() == 0
    assert warned[0].filename == __file__  # the line that called mi_loss
    model(X)
    model.mi_loss(Y)


def test_a_term_that_is_not_finite_is_named_by_its_layer() -> None:
    class Broken(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * torch.nan

    model = mireg.wrap(nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 8), nn.Sequential(nn.Linear(8, 8), Broken())), "?")
    model(X)
    with pytest.warns(RuntimeWarning, match="not finite at step 0 or just before, in 0→2:") as warned:
        model.mi_loss()
    assert warned[0].filename == __file__  # the line that called mi_loss


def test_samples_are_spread_over_the_batch() -> None:
    model = mireg.wrap(network(), ["input", "1", "3"], samples=9)
    net: Any = model.module
    layers = [X, net[:2](X), net[:4](X)]
    for step in range(2):
        model(X)
        model.mi_loss(Y)
        rows = choose_rows(layers, Y, 9, step)
        assert len(rows.layers[0]) == 9
        assert rows.target is not None
        expected = model.regularizer.estimator.about(rows.layers, rows.target).detach()
        found = [model.mi_terms()[f"{name}→target"] for name in ("input", "1", "3")]
        torch.testing.assert_close(torch.stack(found), expected)


def changed(model: mireg.MIRegularized, target: Tensor | None = Y, x: Tensor = X) -> bool:
    """Whether a step's gradient is another one with the term."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    task = model(x).square().mean()
    alone = torch.autograd.grad(task, parameters, retain_graph=True)
    both = torch.autograd.grad(task + model.mi_loss(target), parameters)
    return any(not torch.equal(a, b) for a, b in zip(alone, both, strict=True))


class Renaming(nn.Module):
    """A root with its own state_dict and hooks on it, as of quantised and adapted networks."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.BatchNorm1d(8)), nn.Linear(8, 2)
        self.register_buffer("passing", torch.zeros(3), persistent=False)
        self.register_parameter("scale", nn.Parameter(torch.ones(8)))
        own: Any = self
        own._register_state_dict_hook(lambda module, state, prefix, _: state.update({f"{prefix}hooked": torch.ones(1)}))
        own._register_load_state_dict_pre_hook(lambda state, prefix, *_: state.pop(f"{prefix}hooked", None))
        self.loaded = 0

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        state = super().state_dict(*args, **kwargs)
        state["extra"] = torch.ones(2)
        return state

    def load_state_dict(self, state_dict: Any, *args: Any, **kwargs: Any) -> Any:
        self.loaded += 1
        return super().load_state_dict({k: v for k, v in state_dict.items() if k != "extra"}, *args, **kwargs)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x) * self.scale)


def tied() -> nn.Module:
    net = network()
    net.add_module("again", net[2])
    net.add_module("last", nn.Linear(2, 2))
    return net


@pytest.mark.parametrize("make", [network, Scaled, Renaming, tied])
def test_names_are_the_networks(make: Callable[[], nn.Module]) -> None:
    net = make()
    expected = {
        "parameters": [name for name, _ in net.named_parameters()],
        "every parameter": [name for name, _ in net.named_parameters(remove_duplicate=False)],
        "buffers": [name for name, _ in net.named_buffers()],
        "children": [name for name, _ in net.named_children()],
        "modules": [name for name, _ in net.named_modules()],
        "state": list(net.state_dict()),
        "prefixed": [name for name, _ in nn.ModuleList([net]).named_parameters()],
        "nested": list(nn.ModuleList([net]).state_dict()),
    }
    model = mireg.wrap(net)
    found = {
        "parameters": [name for name, _ in model.named_parameters()],
        "every parameter": [name for name, _ in model.named_parameters(remove_duplicate=False)],
        "buffers": [name for name, _ in model.named_buffers()],
        "children": [name for name, _ in model.named_children()],
        "modules": [name for name, _ in model.named_modules()],
        "state": list(model.state_dict()),
        "prefixed": [name for name, _ in nn.ModuleList([model]).named_parameters()],
        "nested": list(nn.ModuleList([model]).state_dict()),
    }
    assert found == expected
    assert all(a is b for a, b in zip(model.parameters(), net.parameters(), strict=True))
    assert model.get_parameter(expected["parameters"][-1]) is list(net.parameters())[-1]
    model.load_state_dict(model.state_dict())
    assert getattr(net, "loaded", 1) == 1
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model)) if make is not Renaming else model):
        assert list(twin.state_dict()) == expected["state"]
        assert all(a is b for a, b in zip(twin.parameters(), twin.module.parameters(), strict=True))


class Overriding(nn.Module):
    """A root that gives an optimizer a part of its parameters, as of a frozen backbone, and acts on its own."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = network(), nn.Linear(2, 2)
        self.asked: list[str] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))

    def parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        return self.head.parameters()

    def zero_grad(self, *args: Any) -> None:
        self.asked.append("zero_grad")

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.asked.append("to")
        return super().to(*args, **kwargs)

    def eval(self) -> Any:
        self.asked.append("eval")
        return super().eval()


def test_what_the_network_overrides_acts() -> None:
    net = Overriding()
    model = mireg.wrap(net)
    assert list(map(id, model.parameters())) == list(map(id, net.head.parameters()))
    assert len(list(model.named_parameters())) == 8
    model.zero_grad()
    assert model.to("cpu") is model
    assert model.eval() is model
    assert net.asked == ["zero_grad", "to", "eval"]
    model.train()
    (model(X).square().mean() + model.mi_loss(Y)).backward()
    assert model.verdict.startswith("active")
    assert mireg.wrap(nn.Sequential(net, nn.Tanh(), nn.Linear(2, 2)))(X).shape == (12, 2)


def test_a_submodule_of_the_wrappers_name() -> None:
    class Around(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.module = network()

        def forward(self, x: Tensor) -> Tensor:
            return self.module(x)

    net = Around()
    model = mireg.wrap(net)
    assert model.module is net.module
    assert model.get_parameter("module.0.weight") is net.module[0].weight
    weights = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    assert not torch.func.functional_call(model, weights, (X,)).any()
    assert model.unwrap() is net


def test_lengths_iteration_and_truth_are_the_networks() -> None:
    net = network()
    model = mireg.wrap(net)
    assert len(model) == 5
    assert list(model) == list(net)
    assert model
    assert mireg.wrap(nn.ModuleList())  # without a layer, but there
    other = mireg.wrap(Scaled())
    assert other
    with pytest.raises(TypeError, match="len"):
        len(other)
    with pytest.raises(TypeError, match="not iterable"):
        list(other)


@pytest.mark.parametrize("name", PUBLIC)
def test_a_network_with_an_attribute_that_would_be_hidden_is_refused(name: str) -> None:
    net: Any = Scaled()
    setattr(net, name, 3)
    with pytest.raises(ValueError, match=f"the network has {name}, .*rename it in Scaled"):
        mireg.wrap(net)


def test_data_parallel_is_refused() -> None:
    with pytest.raises(TypeError, match="use DistributedDataParallel"):
        mireg.wrap(nn.DataParallel(network()))


@pytest.mark.parametrize(
    "name", [n for n, kind in estimators.REGISTRY.items() if kind.is_differentiable and not kind.is_learned]
)
def test_an_instance_rewards_as_its_name_does(name: str) -> None:
    found = []
    for estimator in (name, estimators.get(name)):
        torch.manual_seed(0)
        model = mireg.wrap(network(), estimator=estimator)
        model(X)
        found.append(model.mi_loss(Y))
    assert torch.equal(*found)


def test_options_of_an_instance_are_kept() -> None:
    model = mireg.wrap(network(), estimator=estimators.get("usable", ridge=0.3))
    chosen = {**estimators.Usable.reward_options, "ridge": 0.3}
    assert repr(model.regularizer.estimator) == repr(estimators.Usable(**chosen))


def test_an_estimator_of_ones_own_is_used_as_it_is() -> None:
    estimator = Shuffled(estimators.get("usable"))  # its constructor takes an argument
    assert mireg.wrap(network(), estimator=estimator).regularizer.estimator is estimator


class TestVerdict:
    """It is 'active' if, and only if, the term acts."""

    def test_active(self) -> None:
        model = mireg.wrap(network())
        for _ in range(3):
            assert changed(model)
            assert model.verdict.startswith("active: rewards information about the target and the input in 3 layers")
        assert changed(model, None)
        assert model.verdict.startswith("active: rewards information about the input in 3 layers")

    def test_one_class(self) -> None:
        """Nothing to tell apart: what layers keep of the input is rewarded, and no more."""
        model = mireg.wrap(network())
        assert changed(model, torch.zeros(12, dtype=torch.long))
        about_target = [nats.item() for name, nats in model.mi_terms().items() if name.endswith("→target")]
        assert about_target == pytest.approx([0, 0, 0], abs=1e-5)
        assert model.verdict.startswith("active: rewards information about the input alone (the target tells too few")

    def test_nothing_to_reward(self) -> None:
        """Without a target, layers that pass the input on as it is."""

        class Rotation(nn.Linear):
            def __init__(self) -> None:
                super().__init__(4, 4, bias=False)
                nn.init.eye_(self.weight)

        model = mireg.wrap(nn.Sequential(*[Rotation() for _ in range(4)]))
        assert not changed(model, None)
        assert model.verdict.startswith("inactive at the last step: the layers lost nothing of the input")
        assert changed(model)
        assert model.verdict.startswith("active")

    def test_a_target_that_no_layer_knows_of(self) -> None:
        model = mireg.wrap(network())
        x = torch.randn(64, 4)
        assert changed(model, torch.randint(2, (64,), generator=torch.Generator().manual_seed(0)), x)
        assert "the input alone (no layer is seen to know of the target yet)" in model.verdict
        for _ in range(3):
            assert changed(model, (x[:, 0] > 0).long(), x)
        assert "rewards information about the target and the input" in model.verdict

    def test_every_row_alone_in_its_class(self) -> None:
        model = mireg.wrap(network())
        model = mireg.wrap(nn.Sequential(*network()[:-1], nn.Linear(8, 12)))
        assert changed(model, torch.arange(12))
        assert model.verdict.startswith("active: rewards information about the input alone (the target tells too few")

    def test_unwrapped(self) -> None:
        model = mireg.wrap(network())
        assert changed(model)
        net = model.unwrap()
        assert model.verdict == "inactive: the network was unwrapped"
        assert torch.equal(model(X), net(X))
        with pytest.raises(RuntimeError, match="the network was unwrapped"):
            model.mi_loss(Y)

    def test_mi_loss_not_called_yet(self) -> None:
        model = mireg.wrap(network())
        model(X)
        assert model.verdict == "not known yet: mi_loss() has not been called"
        model.mi_loss(Y)
        assert model.verdict.startswith("active")

    def test_restarted(self) -> None:
        model = mireg.wrap(network())
        model(X[:4])
        model.mi_loss(Y[:4])
        assert model.verdict.startswith("inactive at the last step")
        model.restart()
        assert model.verdict == "not known yet: mi_loss() has not been called"

    def test_mi_loss_not_called(self) -> None:
        model = mireg.wrap(network())
        assert changed(model)
        for _ in range(UNUSED):
            model(X).mean().backward()
        assert model.verdict == f"inactive: mi_loss() was not called in the last {UNUSED} training passes"
        assert changed(model)
        assert model.verdict.startswith("active")

    def test_never_added_to_the_loss(self) -> None:
        model = mireg.wrap(network())

        def train(steps: int) -> None:
            for _ in range(steps):
                loss = model(X).square().mean() + model.mi_loss(Y).item()
                loss.backward()

        train(UNUSED)
        assert model.verdict.startswith("inactive: its gradient never arrives: add what mi_loss() returns")
        with pytest.warns(UserWarning, match="the MI term adds nothing: its gradient never arrives"):
            train(1)
        train(1)  # says it once
        assert changed(model)
        assert model.verdict.startswith("active")

    @pytest.mark.parametrize("sign", [-1.0, 1.0])
    def test_negated(self, sign: float) -> None:
        model = mireg.wrap(network())
        (model(X).square().mean() + sign * model.mi_loss(Y)).backward()
        assert model.verdict.startswith("inverted: its sign was changed" if sign < 0 else "active")

    def test_multiplied_by_0(self) -> None:
        model = mireg.wrap(network())
        (model(X).square().mean() + 0.0 * model.mi_loss(Y)).backward()
        assert model.verdict.startswith("inactive at the last step: it was multiplied by 0")

    def test_weight_of_0_and_fallen_to_0(self) -> None:
        model = mireg.wrap(network(), weight=0.0)
        assert not changed(model)
        assert model.verdict == "inactive: its weight is 0"
        model = mireg.wrap(network(), steps=2)
        assert [changed(model) for _ in range(4)] == [True, True, False, False]
        assert model.verdict.startswith("inactive: its weight has fallen to 0 by step 4; model.restart()")


def test_a_number_falls_to_0_over_400_steps() -> None:
    cases: list[tuple[float, dict[str, Any], int]] = [(2.0, {}, schedules.STEPS), (2.0, {"steps": 7}, 7)]
    for weight, options, last in cases:
        schedule = mireg.wrap(network(), weight=weight, **options).regularizer.weight
        assert [schedule(0), schedule(last), schedule(last + 100)] == [weight, 0.0, 0.0]
        assert schedule(last - 1) == pytest.approx(weight / last)


@pytest.mark.parametrize("samples", [9, 12])
@pytest.mark.parametrize("ends", ["time first", "samples first", "flat"])
def test_flattened_targets_have_the_order_of_the_output(samples: int, ends: str) -> None:
    """Of networks with time first, whatever they return; as many time steps as samples tell nothing."""
    places = 12

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.head = nn.Linear(4, 8), nn.Linear(8, 3)
            self.body: Any = nn.TransformerEncoderLayer(8, 2, 8, 0.0)

        def forward(self, x: Tensor) -> Tensor:
            out = self.head(self.body(self.embed(x)))
            return out.flatten(0, 1) if ends == "flat" else out.transpose(0, 1) if ends == "samples first" else out

    if ends == "samples first" and samples == places:
        pytest.skip("nothing tells")
    torch.manual_seed(0)
    x = torch.randn(places, samples, 4)
    labels = (x[..., 0] > 0).long()
    as_output = labels.T if ends == "samples first" else labels
    terms: list[Any] = []
    for target in (labels.T, as_output.flatten()):
        model = mireg.wrap(Tagger())
        model.load_state_dict({name: p.clone() for name, p in (terms[0][1] if terms else model).state_dict().items()})
        model(x)
        terms.append((model.mi_loss(target), model))
    assert torch.equal(terms[0][0], terms[1][0])


class TestSteps:
    """The schedule counts steps of the optimizer."""

    @staticmethod
    def train(model: mireg.MIRegularized, optimizer: Any, steps: int, passes: int = 1) -> list[int]:
        """The step of the schedule that each call of mi_loss used."""
        used = []
        for _ in range(steps):
            optimizer.zero_grad()
            for _ in range(passes):
                (model(X).square().mean() + model.mi_loss(Y)).backward()
                used.append(model.regularizer.steps - 1)
            optimizer.step()
        return used

    @pytest.mark.parametrize("set_to_none", [True, False])
    def test_gradient_accumulation_is_one_step(self, set_to_none: bool) -> None:
        model = mireg.wrap(network())
        optimizer: Any = torch.optim.SGD(model.parameters(), 0.1)
        optimizer.zero_grad = lambda: nn.Module.zero_grad(model.module, set_to_none)
        assert self.train(model, optimizer, 3, passes=4) == [0] * 4 + [1] * 4 + [2] * 4

    def test_passes_that_add_up_are_weighted_alike(self) -> None:
        model = mireg.wrap(network(), weight=lambda step: 1.0 + step)
        model(X)
        first = model.mi_loss(Y)
        (first + 0 * model(X).mean()).backward()
        model.regularizer.balance.seen = None
        model(X)
        torch.testing.assert_close(model.mi_loss(Y), first)

    def test_an_optimizer_that_writes_the_data(self) -> None:
        """Then no version of a parameter tells a step, but gradients that start anew do."""

        class ByData(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                for parameter in self.param_groups[0]["params"]:
                    parameter.data = parameter.data - 0.1 * parameter.grad

        model = mireg.wrap(network())
        assert self.train(model, ByData(model.parameters()), 5) == [0, 1, 2, 3, 4]

        class ByDataInPlace(torch.optim.SGD):
            def step(self, closure: Any = None) -> Any:
                for parameter in self.param_groups[0]["params"]:
                    parameter.data.add_(parameter.grad, alpha=-0.1)

        model = mireg.wrap(network())
        assert self.train(model, ByDataInPlace(model.parameters()), 5) == [0, 1, 2, 3, 4]
        model = mireg.wrap(network())
        optimizer = ByDataInPlace(model.parameters())
        for _ in range(50):  # a common order, in which mi_loss() sees the gradients of the step before
            loss = model(X).square().mean() + model.mi_loss(Y)
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
            optimizer.step()
        assert model.regularizer.steps >= 49

    def test_without_knowing_it_goes_on(self) -> None:
        """Gradients that are zeroed in place, by an optimizer that writes the data: the schedule is not stuck."""
        model = mireg.wrap(network())
        for _ in range(3 * 64):
            (model(X).square().mean() + model.mi_loss(Y)).backward()
        assert model.regularizer.steps == 3

    def test_restart(self) -> None:
        model = mireg.wrap(network(), steps=3)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        first = self.train(model, optimizer, 5)
        assert first == list(range(5))
        assert not model.regularizer.active
        model.restart()
        assert changed(model)
        assert self.train(model, optimizer, 2) == [1, 2]

    @pytest.mark.parametrize("how", ["load_state_dict", "apply", "parent"])
    def test_replaced_weights_are_logged(self, how: str, caplog: pytest.LogCaptureFixture) -> None:
        """As in a search for a learning rate, and in each fold of a cross-validation."""
        model = mireg.wrap(network())
        state = copy.deepcopy(model.state_dict())

        def reset(module: nn.Module) -> None:
            if isinstance(module, nn.Linear):
                module.reset_parameters()

        def replace() -> list[str]:
            caplog.clear()
            with caplog.at_level(logging.WARNING, logger="mireg"):
                model.eval()  # as it is after the test of a fold
                if how == "apply":
                    model.apply(reset)
                elif how == "parent":
                    nn.ModuleDict({"part": model}).load_state_dict({f"part.{name}": p for name, p in state.items()})
                else:
                    model.load_state_dict(state)
                assert not caplog.records  # to be tested, as the best weights are at the end
                model.train()
                model(X)
                model.mi_loss(Y)
            return [record.getMessage() for record in caplog.records]

        assert replace() == []  # before the first step
        self.train(model, torch.optim.SGD(model.parameters(), 0.1), 2)
        (line,) = replace()
        assert line.startswith("mireg: the weights were replaced at step 2 of the term's schedule, which goes on")
        assert "model.restart()" in line
        model.restart()
        assert replace() == []

    def test_a_resumed_schedule_is_not_reported(self, caplog: pytest.LogCaptureFixture) -> None:
        model, resumed = mireg.wrap(network()), mireg.wrap(network())
        self.train(model, torch.optim.SGD(model.parameters(), 0.1), 2)
        resumed.load_state_dict(model.state_dict())
        resumed.regularizer.load_state_dict(model.regularizer.state_dict())
        self.train(resumed, torch.optim.SGD(resumed.parameters(), 0.1), 2)
        assert not caplog.records


def test_the_verdict_is_logged_when_it_changes(caplog: pytest.LogCaptureFixture) -> None:
    model = mireg.wrap(network(), steps=3)
    with caplog.at_level(logging.INFO, logger="mireg"):
        for _ in range(5):
            changed(model)
    assert [record.getMessage().partition(" rewards")[0].partition(";")[0] for record in caplog.records] == [
        "mireg: active:",
        "mireg: inactive: its weight has fallen to 0 by step 3",
    ]


def test_second_derivatives(monkeypatch: pytest.MonkeyPatch) -> None:
    """Against differences of first derivatives."""
    monkeypatch.setattr(
        method, "share_lost", lambda kept, certain: torch.ones_like(kept)
    )  # these are constants of the gradient
    torch.manual_seed(0)
    net = network().double()
    model = mireg.wrap(net, weight=Constant(1.0))
    parameters = list(net.parameters())

    def gradient() -> Tensor:
        model.restart()
        loss = model(X.double()).square().mean() + model.mi_loss(Y)
        return torch.cat([g.flatten() for g in torch.autograd.grad(loss, parameters, create_graph=True)])

    whole = gradient()
    probe, direction = torch.randn_like(whole), torch.randn_like(parameters[0])
    (found,) = torch.autograd.grad(whole @ probe, parameters[0])
    sides = []
    for sign in (1, -1):
        with torch.no_grad():
            parameters[0].add_(direction, alpha=sign * 1e-5)
        sides.append(gradient().detach() @ probe)
        with torch.no_grad():
            parameters[0].sub_(direction, alpha=sign * 1e-5)
    expected = ((sides[0] - sides[1]) / 2e-5).item()
    assert (found * direction).sum().item() == pytest.approx(expected, rel=1e-5)
