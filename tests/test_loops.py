"""The training loops that people have: the term is the same in all of them."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounterWithBackend
from torch.distributed.checkpoint.state_dict import get_state_dict
from torch.func import functional_call, grad
from torch.nn.functional import cross_entropy
from torch.optim.swa_utils import AveragedModel
from torch.utils.checkpoint import checkpoint

import mireg
from mireg.schedules import Linear
from models import build

SHAPE, CLASSES, ROWS = (1, 8, 8), 10, 24


def network(name: str = "mlp") -> nn.Module:
    torch.manual_seed(0)
    return build(name, {"depth": 4, "width": 16}, SHAPE, CLASSES)


def batch(step: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(step)
    images = torch.randn(ROWS, *SHAPE, generator=generator)
    return images, torch.randint(CLASSES, (ROWS,), generator=generator)


def loss_of(model: Any, step: int = 0) -> Tensor:
    images, labels = batch(step)
    return cross_entropy(model(images), labels) + model.mi_loss(labels)


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad.clone() for p in model.parameters()]


def train(model: nn.Module, forward: Callable[..., Tensor] | None = None, steps: int = 8) -> list[float]:
    """Losses of plain SGD, through ``forward`` where it is not the model itself."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    losses = []
    for step in range(steps):
        images, labels = batch(step)
        loss = cross_entropy((model if forward is None else forward)(images), labels)
        if isinstance(model, mireg.MIRegularized):
            loss = loss + model.mi_loss(labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def test_accumulation_adds_up() -> None:
    apart, together = (mireg.wrap(network(), weight=0.5) for _ in range(2))
    parts = []
    for step in range(2):
        apart.zero_grad()
        apart.regularizer.start_at(0)  # passes that add up are one step
        loss_of(apart, step).backward()
        parts.append(gradients(apart))
        loss_of(together, step).backward()
    for total, first, second in zip(gradients(together), *parts, strict=True):
        torch.testing.assert_close(total, first + second)


def test_a_scaled_loss_is_balanced_as_it_would_be_unscaled() -> None:
    plain, scaled = mireg.wrap(network(), weight=0.5), mireg.wrap(network(), weight=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    optimizers = [torch.optim.SGD(model.parameters(), lr=0.1) for model in (plain, scaled)]
    for step in range(3):
        for optimizer in optimizers:
            optimizer.zero_grad()
        loss_of(plain, step).backward()
        scaler.scale(loss_of(scaled, step)).backward()
        scaler.unscale_(optimizers[1])
        for ours, theirs in zip(gradients(scaled), gradients(plain), strict=True):
            torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-5)
        optimizers[0].step()
        scaler.step(optimizers[1])
        scaler.update()


def test_autocast_leaves_the_estimate_in_float32() -> None:
    full, mixed = mireg.wrap(network(), weight=0.5), mireg.wrap(network(), weight=0.5)
    loss_of(full)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(mixed)
    loss.backward()
    assert all(torch.isfinite(g).all() for g in gradients(mixed))
    for ours, theirs in zip(mixed.mi_terms().values(), full.mi_terms().values(), strict=True):
        assert ours.dtype == torch.float32
        assert ours.item() == pytest.approx(theirs.item(), abs=0.15)


@pytest.mark.parametrize("estimator", ["kde", "renyi", "cka", "gaussian", "binning"])
def test_half_precision_autocast_leaves_the_gradient_finite(estimator: str) -> None:
    model = mireg.wrap(network(), estimator=estimator, weight=1.0)
    with torch.autocast("cpu", dtype=torch.float16):
        loss_of(model).backward()
    assert all(torch.isfinite(g).all() for g in gradients(model))


def test_half_precision_with_a_scaler_trains_deep_networks() -> None:
    """Their gradients lie below what half precision can hold."""
    torch.manual_seed(0)
    net = build("mlp", {"depth": 10, "width": 32, "activation": "sigmoid", "init": "orthogonal"}, (1, 8, 8), 10)
    model, scaler = mireg.wrap(net, weight=1.0), torch.amp.GradScaler("cpu", init_scale=2.0**16)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    for step in range(6):
        with torch.autocast("cpu", dtype=torch.float16):
            loss = loss_of(model, step)
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert scaler.get_scale() == 2.0**16  # no step was skipped
    assert all(torch.isfinite(p).all() for p in net.parameters())


def test_several_forward_passes_before_one_backward() -> None:
    """As contrastive learning has them: each has its term, all with the same m."""
    layers = ["layers.0", "layers.1", "layers.3"]  # one between the first and the last: it is always its turn
    once, thrice = (mireg.wrap(network(), layers, weight=0.5) for _ in range(2))
    for _ in range(8):
        once.zero_grad()
        thrice.zero_grad()
        loss_of(once).backward()
        torch.stack([loss_of(thrice) for _ in range(3)]).sum().backward()
    for ours, theirs in zip(gradients(thrice), gradients(once), strict=True):
        torch.testing.assert_close(ours, 3 * theirs, rtol=1e-3, atol=1e-6)


def test_layers_may_be_frozen_and_released_at_any_step() -> None:
    model = mireg.wrap(network(), weight=0.5)
    first, *_ = model.parameters()
    for step in range(8):
        first.requires_grad_(step not in (1, 2, 5))
        model.zero_grad()
        loss_of(model, step).backward()
        assert (first.grad is None) == (step in (1, 2, 5))
        assert all(torch.isfinite(p.grad).all() for p in model.parameters() if p.grad is not None)


def test_a_frozen_network_is_left_alone() -> None:
    bare = network().requires_grad_(False)
    *_, bias = bare.parameters()
    bias.requires_grad_()
    images, labels = batch()
    (expected,) = torch.autograd.grad(cross_entropy(bare(images), labels), bias)
    model = mireg.wrap(bare, weight=0.5)
    with pytest.warns(UserWarning, match="no layer that it sees depends on a trained parameter"):
        loss_of(model).backward()
    assert bias.grad is not None
    assert torch.equal(bias.grad, expected)


def test_half_precision_network_trains() -> None:
    model = mireg.wrap(network().bfloat16(), weight=0.5)
    before = [p.clone() for p in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(3):
        images, labels = batch(step)
        (cross_entropy(model(images.bfloat16()), labels) + model.mi_loss()).backward()
        optimizer.step()
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def ratio(model: mireg.MIRegularized) -> float:
    found = model.regularizer.balance.ratio
    assert found is not None
    return found.item()


def compiled_around(model: nn.Module, backend: Any) -> Callable[[Tensor], Tensor]:
    forward: Callable[[Tensor], Tensor] = torch.compile(model, backend=backend)
    return forward


def compiled_in_place(model: nn.Module, backend: Any) -> nn.Module:
    model.compile(backend=backend)
    return model


def compiled_inside(model: mireg.MIRegularized, backend: Any) -> nn.Module:
    model.module.compile(backend=backend)
    return model


@pytest.mark.parametrize("how", [compiled_around, compiled_in_place, compiled_inside])
def test_compiled_once_the_term_has_ended(how: Callable[[Any, Any], Any]) -> None:
    """While it is on, passes are not compiled, so losses and weights are those of the eager network."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    model, eager = (mireg.wrap(network(), weight=Linear(0.3, 4)) for _ in range(2))
    forward = how(model, counter)
    losses, expected = train(model, forward, steps=4), train(eager, steps=4)
    assert losses == expected
    assert counter.frame_count == 0
    assert ratio(model) == ratio(eager)
    assert train(model, forward, steps=4) == pytest.approx(train(eager, steps=4), abs=1e-5)
    assert counter.frame_count == 1


def test_a_compiled_network_inside() -> None:
    """Compiled first, then wrapped: its layers are still found."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    compiled: Any = torch.compile(network(), backend=counter)
    model, eager = (mireg.wrap(net, weight=0.5) for net in (compiled, network()))
    assert train(model, steps=3) == train(eager, steps=3)
    assert len(model.taps.chain) == len(eager.taps.chain)
    assert counter.frame_count == 0


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")  # torch's own, while it traces
def test_a_compiled_step() -> None:
    torch._dynamo.reset()
    model, eager = (mireg.wrap(network(), weight=Linear(0.5, 3)) for _ in range(2))
    step = torch.compile(lambda index: loss_of(model, index), backend="eager")
    for index in range(5):
        assert step(index).item() == pytest.approx(loss_of(eager, index).item(), abs=1e-6)


def steps_after(passes: int, update: Callable[[mireg.MIRegularized, int], None]) -> int:
    """Steps of the schedule after so many passes, each with a backward pass and then ``update``."""
    model = mireg.wrap(network(), weight=0.5)
    for index in range(passes):
        loss_of(model, index).backward()
        update(model, index)
    return model.regularizer.steps


OPTIMIZERS: dict[str, Callable[[Any], torch.optim.Optimizer]] = {
    "for each": lambda weights: torch.optim.Adam(weights, foreach=False),
    "foreach": lambda weights: torch.optim.Adam(weights, foreach=True),
    "fused": lambda weights: torch.optim.AdamW(weights, fused=True),
    "SGD": lambda weights: torch.optim.SGD(weights, lr=0.1, momentum=0.9),
}


@pytest.mark.parametrize("to_none", [True, False])
@pytest.mark.parametrize("every", [1, 2, 3])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_step_of_the_schedule_is_one_of_the_optimizer(name: str, every: int, to_none: bool) -> None:
    optimizers: list[torch.optim.Optimizer] = []

    def update(model: mireg.MIRegularized, index: int) -> None:
        if not optimizers:
            optimizers.append(OPTIMIZERS[name](model.parameters()))
        if (index + 1) % every == 0:
            optimizers[0].step()
            optimizers[0].zero_grad(set_to_none=to_none)

    lost = name == "fused" and every == 1 and not to_none  # its first step, as below
    assert steps_after(6, update) == 6 // every - lost


@pytest.mark.parametrize("every", [1, 3])
def test_an_optimizer_that_leaves_no_version_behind(every: int) -> None:
    """Its first step is not told from accumulation: there is nothing yet to compare the weights with."""

    def update(model: mireg.MIRegularized, index: int) -> None:
        if (index + 1) % every == 0:
            for parameter in model.parameters():
                assert parameter.grad is not None
                parameter.data.sub_(0.1 * parameter.grad)
                parameter.grad.zero_()

    assert steps_after(9, update) in (9 // every, 9 // every - 1)


def rising(step: int) -> float:
    return 0.5 * (step > 1)


@pytest.mark.parametrize("weight", [Linear(0.5, 3), rising])
def test_the_schedule_ends_or_begins_within_accumulated_passes(weight: Callable[[int], float]) -> None:
    model = mireg.wrap(network(), weight=weight)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in range(10):
        loss_of(model, index).backward()
        if index % 2:
            assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
            optimizer.step()
            optimizer.zero_grad()
    assert model.regularizer.steps == 5
    assert model.verdict.startswith("inactive" if weight is not rising else "active")


@pytest.mark.parametrize("every", [1, 2])
def test_gradients_dropped_between_the_term_and_the_backward_pass(every: int) -> None:
    model = mireg.wrap(network(), weight=0.5)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for index in range(6):
        loss = loss_of(model, index)
        if index % every == 0:
            optimizer.zero_grad()
        loss.backward()
        if (index + 1) % every == 0:
            optimizer.step()
    assert model.regularizer.steps == 6 // every


def test_a_skipped_step_is_none() -> None:
    assert steps_after(3, lambda model, index: None) == 1


def test_replaced_weights_are_reported_once(caplog: pytest.LogCaptureFixture) -> None:
    def without_bias(module: nn.Module) -> None:
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)

    model = mireg.wrap(network(), weight=0.5)
    start = copy.deepcopy(model.state_dict())
    model.load_state_dict(start)
    model.apply(lambda module: None)
    assert not caplog.records
    train(model, steps=2)
    model.apply(lambda module: None)
    assert not caplog.records
    for _ in range(2):
        model.load_state_dict(start)
        train(model, steps=1)
    model.apply(without_bias)
    train(model, steps=1)
    (record,) = caplog.records
    assert "replaced at step 2 of the term's schedule, which goes on: for a new training call model.restart()" in (
        record.getMessage()
    )


def test_restarted_after_the_weights_went_back_it_trains_as_at_first() -> None:
    model = mireg.wrap(network(), weight=Linear(0.5, 3))
    start = copy.deepcopy(model.state_dict())
    first = train(model, steps=5)
    assert model.verdict.startswith("inactive: its weight has fallen to 0 by step 5; model.restart()")
    model.load_state_dict(start)
    model.restart()
    assert train(model, steps=5) == first


def test_data_parallel_copies_are_refused() -> None:
    with pytest.raises(TypeError, match=r"nn\.DataParallel .*: use DistributedDataParallel"):
        mireg.wrap(nn.DataParallel(network()))
    with pytest.raises(TypeError, match=r"nn\.DataParallel .*: use DistributedDataParallel"):
        mireg.wrap(network())._replicate_for_data_parallel()


@pytest.mark.filterwarnings("ignore:.*transform of torch.func", "ignore:no term is added")
@pytest.mark.parametrize("before", [0, 2])
def test_inside_a_transform_of_torch_func_there_is_no_term(before: int) -> None:
    model, bare = mireg.wrap(network(), weight=0.5), network()
    train(model, steps=before)
    bare.load_state_dict(model.state_dict())
    images, labels = batch()

    def task(weights: dict[str, Tensor], net: nn.Module) -> Tensor:
        return cross_entropy(functional_call(net, weights, (images,)), labels)

    weights = {name: p.detach() for name, p in model.named_parameters()}
    slopes = grad(lambda weights: task(weights, model) + model.mi_loss(labels))(weights)
    for name, slope in grad(task)(weights, bare).items():
        assert torch.equal(slopes[name], slope)
    assert loss_of(model).requires_grad  # and outside it works on
    assert model.mi_terms()


def test_checkpoints_of_torch_distributed_have_the_bare_names() -> None:
    def names(model: nn.Module) -> set[str]:
        optimizer = torch.optim.Adam(model.parameters())
        images, labels = batch()
        cross_entropy(model(images), labels).backward()
        optimizer.step()
        state, of_optimizer = get_state_dict(model, optimizer)
        return {*state, *(f"optimizer.{name}" for name in of_optimizer["state"])}

    assert names(mireg.wrap(network(), weight=0.5)) == names(network())


class Checkpointed(nn.Module):
    def __init__(self, use_reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stem = nn.Linear(64, 16)
        self.blocks = nn.ModuleList(
            nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 16), nn.Tanh()) for _ in range(3)
        )
        self.head = nn.Linear(16, CLASSES)
        self.use_reentrant = use_reentrant

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x.flatten(1))
        for block in self.blocks:
            x = block(x) if self.use_reentrant is None else checkpoint(block, x, use_reentrant=self.use_reentrant)
        return self.head(x)


@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_activations(use_reentrant: bool) -> None:
    layers = "auto" if not use_reentrant else ["stem", "blocks.?"]
    expected = mireg.wrap(Checkpointed(None), layers, weight=0.5)
    model = mireg.wrap(Checkpointed(use_reentrant), layers, weight=0.5)
    for step in range(2):  # the first pass is observed, the second one tapped
        for each in (expected, model):
            each.zero_grad()
            loss_of(each, step).backward()
        assert list(model.mi_terms()) == list(expected.mi_terms())
        for ours, theirs in zip(gradients(model), gradients(expected), strict=True):
            torch.testing.assert_close(ours, theirs)


def test_auto_taps_only_what_has_a_gradient_under_reentrant_checkpoints() -> None:
    model = mireg.wrap(Checkpointed(use_reentrant=True), weight=0.5)
    loss_of(model).backward()
    assert model.taps.chain == ["input", "stem", "blocks.0", "blocks.1", "blocks.2"]


def test_channels_last() -> None:
    losses = []
    for memory_format in (torch.contiguous_format, torch.channels_last):
        model = mireg.wrap(network("cnn"), weight=0.5).to(memory_format=memory_format)
        images, labels = batch()
        for _ in range(2):
            loss = cross_entropy(model(images.to(memory_format=memory_format)), labels) + model.mi_loss()
        losses.append(loss.item())
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)


def test_averaged_model_averages_the_weights() -> None:
    model = mireg.wrap(network(), weight=0.3)
    averaged = AveragedModel(model)
    for _ in range(2):
        train(model, steps=1)
        averaged.update_parameters(model)
    averaged.eval()
    assert averaged(batch()[0]).shape == (ROWS, CLASSES)
    assert list(averaged.module.state_dict()) == list(network().state_dict())


def test_saved_whole_and_loaded() -> None:
    model = mireg.wrap(network(), weight=0.3)
    train(model, steps=2)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    twin = torch.load(file, weights_only=False)
    assert train(twin, steps=3) == train(model, steps=3)


def test_unwrapped_network_exports() -> None:
    model = mireg.wrap(network(), weight=0.3)
    train(model, steps=1)
    bare = model.unwrap().eval()
    exported = torch.export.export(bare, (batch()[0],))
    torch.testing.assert_close(exported.module()(batch()[0]), bare(batch()[0]))


def test_unwrapped_network_exports_to_onnx() -> None:
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    model = mireg.wrap(network(), weight=0.3)
    train(model, steps=1)
    bare = model.unwrap().eval()
    program = torch.onnx.export(bare, (batch()[0],), dynamo=True, verbose=False)
    assert program is not None
    (output,) = program(batch()[0])  # by onnxruntime
    torch.testing.assert_close(output, bare(batch()[0]), atol=1e-5, rtol=1e-4)
