"""Two processes over gloo against one on the joined batch."""

from __future__ import annotations

import datetime
import functools
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, distributed, nn
from torch.distributed.fsdp import fully_shard
from torch.multiprocessing.spawn import spawn
from torch.nn.functional import cross_entropy
from torch.nn.parallel import DistributedDataParallel

import mireg

RANKS, ROWS, STEPS = 2, 12, 4


class Network(nn.Sequential):
    """Layers one after another, which a call may go around."""

    around = False

    def forward(self, x: Tensor) -> Tensor:
        for layer in [] if self.around else self:
            x = layer(x)
        return x[:, :3]


def network() -> Network:
    torch.manual_seed(0)
    layers = [layer for width in (6, 16, 16) for layer in (nn.Linear(width, 16), nn.Tanh())]
    return Network(*layers, nn.Linear(16, 3)).double()


def batch(rank: int, step: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(10 * step + rank)
    x = torch.randn(ROWS, 6, generator=generator, dtype=torch.float64)
    return x, torch.randint(3, (ROWS,), generator=generator)


def joined(step: int) -> tuple[Tensor, Tensor]:
    parts = [batch(rank, step) for rank in range(RANKS)]
    return torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])


def train(
    model: nn.Module, wrapped: mireg.MIRegularized, batches: Callable[[int], Any], target: bool = True
) -> list[Tensor]:
    """Gradients of every step, all of plain SGD."""
    gradients = []
    for step in range(STEPS):
        x, y = batches(step)
        loss = cross_entropy(model(x), y) + wrapped.mi_loss(y if target else None)
        wrapped.zero_grad()
        loss.backward()
        gradients.append(torch.cat([p.grad.flatten() for p in wrapped.parameters()]))
        with torch.no_grad():
            for parameter in wrapped.parameters():
                assert parameter.grad is not None
                parameter.sub_(0.1 * parameter.grad)
    return gradients


def wrap(**options: Any) -> mireg.MIRegularized:
    return mireg.wrap(network(), weight=0.5, samples=RANKS * ROWS, **options)


def few_rows(rank: int, step: int, model: mireg.MIRegularized) -> int:
    return 4 if rank and step > 1 else ROWS


def nothing_trained(rank: int, step: int, model: mireg.MIRegularized) -> int:
    for parameter in model.parameters() if rank and step == 2 else []:
        parameter.requires_grad_(False)
    return ROWS


def no_layer_ran(rank: int, step: int, model: mireg.MIRegularized) -> int:
    module = model.module
    assert isinstance(module, Network)
    module.around = bool(rank and step == 2)
    return ROWS


def another_target(rank: int, step: int, model: mireg.MIRegularized) -> int:
    return -ROWS if rank and step == 2 else ROWS


UNEVEN: dict[str, Callable[[int, int, mireg.MIRegularized], int]] = {
    "few rows": few_rows,
    "other rows": lambda rank, step, model: ROWS - rank * step,
    "nothing trained": nothing_trained,
    "another target": another_target,
    "no layer ran": no_layer_ran,
}
"""How ranks differ, which must be of no consequence; each gives the number of rows, negative for values as targets."""


def uneven(rank: int, change: Callable[[int, int, mireg.MIRegularized], int], *, gather: bool) -> bool:
    """Train without data parallelism around it, which would not allow all of this; whether the weights are finite."""
    model = wrap(gather=gather)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for step in range(STEPS):
        rows = change(rank, step, model)
        x, y = batch(rank, step)
        x, y = x[: abs(rows)], y[: abs(rows)]
        loss = cross_entropy(model(x), y) + model.mi_loss(y if rows > 0 else y.double())
        optimizer.zero_grad()
        if loss.requires_grad and not (rank and step == 1):  # one rank skips a backward pass
            loss.backward()
            optimizer.step()
        model.requires_grad_(True)
    return all(bool(p.isfinite().all()) for p in model.parameters())


def joined_late(rank: int) -> list[Tensor]:
    """Uneven inputs, one rank takes part without the term, which others do not wait for."""
    model = wrap()
    network = DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with network.join():
        for step in range(STEPS - rank):
            x, y = batch(rank, step)
            loss = cross_entropy(network(x), y)
            if not (rank and step == 1):
                loss = loss + model.mi_loss(y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return [p.detach() for p in model.parameters()]


def parallel(rank: int, port: int, folder: Path) -> None:
    torch.set_num_threads(1)
    torch.distributed.init_process_group(
        "gloo",
        init_method=f"tcp://127.0.0.1:{port}",
        rank=rank,
        world_size=RANKS,
        timeout=datetime.timedelta(seconds=60),  # a rank that waits for another one fails
    )
    found: dict[Any, Any] = {}
    for target in (True, False):
        for gather in (True, False):
            model = wrap(gather=gather)
            mine = functools.partial(batch, rank)
            found[target, gather] = train(DistributedDataParallel(model), model, mine, target)
            found["m", target, gather] = model.regularizer.state_dict()["ratio"]
    for name, change in UNEVEN.items():
        for gather in (True, False):
            found[name, gather] = uneven(rank, change, gather=gather)
    found["joined"] = joined_late(rank)
    model = mireg.wrap(DistributedDataParallel(network()), weight=0.5, samples=RANKS * ROWS)
    found["around"] = train(model, model, functools.partial(batch, rank))
    found["names"] = [name for name, _ in model.named_parameters()]

    model = wrap()
    for layer in [*model.module.children(), model]:
        fully_shard(layer)
    x, y = batch(rank, 0)
    loss = cross_entropy(model(x), y) + model.mi_loss(y)
    loss.backward()
    found["sharded"] = torch.cat([p.grad.full_tensor().flatten() for p in model.parameters()])
    torch.save(found, folder / f"{rank}.pt")
    distributed.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> list[dict[Any, Any]]:
    folder = tmp_path_factory.mktemp("ranks")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    spawn(parallel, (port, folder), nprocs=RANKS)
    return [torch.load(folder / f"{rank}.pt") for rank in range(RANKS)]


@pytest.mark.parametrize("target", [True, False])
def test_gathered_is_one_process_on_the_joined_batch(found: list[dict[Any, Any]], target: bool) -> None:
    model = wrap()
    for step, expected in enumerate(train(model, model, joined, target)):
        for rank in range(RANKS):
            torch.testing.assert_close(found[rank][target, True][step], expected, rtol=0, atol=1e-6)
    ratio = model.regularizer.state_dict()["ratio"]
    assert ratio != 1
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank]["m", target, True], ratio, rtol=1e-4, atol=0)


def test_ungathered_is_the_mean_over_ranks(found: list[dict[Any, Any]]) -> None:
    gradients = []
    for rank in range(RANKS):
        model = wrap()
        gradients.append(train(model, model, functools.partial(batch, rank))[0])
    assert not torch.allclose(gradients[0], gradients[1])
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank][True, False][0], sum(gradients) / RANKS, rtol=0, atol=1e-6)


@pytest.mark.parametrize("gather", [True, False])
@pytest.mark.parametrize("name", UNEVEN)
def test_ranks_that_differ_do_not_wait_for_each_other(found: list[dict[Any, Any]], name: str, gather: bool) -> None:
    assert found[0][name, gather]
    assert found[1][name, gather]


def test_uneven_inputs_join(found: list[dict[Any, Any]]) -> None:
    for ours, theirs in zip(found[0]["joined"], found[1]["joined"], strict=True):
        assert torch.equal(ours, theirs)
        assert ours.isfinite().all()


def test_wrapped_around_data_parallelism(found: list[dict[Any, Any]]) -> None:
    for step in range(STEPS):
        torch.testing.assert_close(found[0]["around"][step], found[0][True, False][step], rtol=0, atol=1e-6)
    assert found[0]["names"] == [f"module.{name}" for name, _ in network().named_parameters()]


def test_fully_sharded_is_data_parallel(found: list[dict[Any, Any]]) -> None:
    for rank in range(RANKS):
        torch.testing.assert_close(found[rank]["sharded"], found[rank][True, False][0], rtol=0, atol=1e-6)
