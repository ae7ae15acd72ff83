"""The MI of a network that is not trained: what is reported, and what is left untouched."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import mireg
from mireg.measure import NoPairsError, measure, recommend


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))


def loader(sizes: tuple[int, ...] = (64, 64, 16)) -> list[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [(torch.randn(size, 4, generator=generator), torch.zeros(size)) for size in sizes]


def test_every_pair_is_reported_between_floor_and_ceiling() -> None:
    found = mireg.measure(network(), loader(), layers=["input", "1", "3"])
    assert [record.pair for record in found] == ["input→1", "1→3"]
    assert found.samples == 64
    for record in found:
        assert record.null_floor < record.nats < record.ceiling == math.log(64)
        assert abs(record.null_floor) < 0.1
        assert record.normalised == record.nats / record.ceiling
        assert record.spread > 0
    assert [record.parameters for record in found] == [4 * 8 + 8, 8 * 6 + 6]
    assert found[0].effective_parameters == pytest.approx(40 * math.exp(-found[0].nats))


def test_a_smaller_last_batch_is_passed_over() -> None:
    whole = mireg.measure(network(), loader((64, 64)), layers=["1", "3"])
    assert mireg.measure(network(), loader((64, 64, 5)), layers=["1", "3"]) == whole


def test_a_larger_batch_is_passed_over_too() -> None:
    first = mireg.measure(network(), loader((64,)), layers=["1", "3"])
    assert mireg.measure(network(), loader((64, 100)), layers=["1", "3"]) == first


def test_integers_of_a_network_with_one_output_are_values() -> None:
    net, x = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 1)), torch.randn(64, 4)
    age = (40 + 10 * x[:, 0]).round()
    found, expected = (mireg.measure(net, [(x, y)], target=True).layers for y in (age.long(), age))
    assert found == expected


def test_lazy_modules() -> None:
    net = nn.Sequential(nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(8), nn.Tanh(), nn.LazyLinear(2))
    assert [record.pair for record in mireg.measure(net, loader())] == ["input→1", "1→3"]


def test_a_critic_that_was_never_fitted_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'infonce' has learned nothing yet, .*: fit it on samples"):
        mireg.measure(network(), loader(), layers=["1", "3"], estimator="infonce")


def test_a_fitted_critic_measures() -> None:
    critic: Any = mireg.estimators.get("infonce")
    rows = torch.randn(256, 4)
    critic.fit(rows, rows.tanh(), steps=20)
    (record,) = mireg.measure(network(), loader(), layers=["1", "3"], estimator=critic)
    assert math.isfinite(record.nats)


def test_frozen_parts_stay_frozen() -> None:
    module = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 6)).train()
    module[1].eval()
    mireg.measure(module, loader(), layers=["0", "1"])
    assert [part.training for part in module] == [True, False, True]


def test_a_single_batch_has_no_spread() -> None:
    (record,) = mireg.measure(network(), loader(), layers=["1", "3"], max_batches=1)
    assert record.spread == 0


def test_network_is_left_as_it_was() -> None:
    module = network().train()
    mireg.measure(module, loader(), layers=["1", "3"])
    assert module.training
    assert not any(m._forward_hooks for m in module.modules())


def test_wrapped_network_measures_as_its_own() -> None:
    module = network()
    plain = mireg.measure(module, loader(), layers=["1", "3"])
    assert mireg.measure(mireg.wrap(module, layers=["1", "3"]), loader(), layers=["1", "3"]) == plain


def test_table_and_figure_show_every_pair() -> None:
    found = mireg.measure(network(), loader(), layers=["input", "1", "3"], estimator="recommended")
    assert found.estimator == "gaussian"
    assert "1→3" in str(found)
    assert len(str(found).splitlines()) == 4
    assert [tick.get_text() for tick in found.figure().axes[0].get_xticklabels()] == ["input→1", "1→3"]


def test_narrow_layers_are_recommended_nearest_neighbours() -> None:
    assert recommend(torch.zeros(9, 3), torch.zeros(9, 1)) == "ksg"
    assert recommend(torch.zeros(9, 3), torch.zeros(9, 2, 2)) == "gaussian"


def test_no_batch() -> None:
    with pytest.raises(ValueError, match="no batch"):
        mireg.measure(network(), [], layers=["1", "3"])


def with_target() -> list[tuple[Tensor, Tensor]]:
    return [(x, (x[:, 0] > 0).long()) for x, _ in loader((64, 64))]


def test_information_plane() -> None:
    found = mireg.measure(network(), with_target(), layers=["input", "1", "3"], target=True)
    assert [record.layer for record in found.layers] == ["input", "1", "3"]
    about_input = [record.about_input for record in found.layers]
    assert about_input == sorted(about_input, reverse=True)  # there is no getting back what a layer lost
    assert all(record.about_target > 0.1 for record in found.layers)
    assert "about target  about input" in str(found)
    axes = found.figure().axes[0]
    (line,) = axes.lines
    # What the input says about itself would stretch the axis.
    assert np.asarray(line.get_xdata()).tolist() == about_input[1:]
    assert np.asarray(line.get_ydata()).tolist() == [record.about_target for record in found.layers[1:]]
    assert [text.get_text() for text in axes.texts] == ["1", "3"]
    pairs = mireg.measure(network(), with_target(), layers=["input", "1", "3"])
    assert pairs.layers == ()
    assert pairs.records == found.records


def test_a_function_finds_the_target() -> None:
    plain = mireg.measure(network(), with_target(), layers=["input", "1"], target=True)
    other = mireg.measure(network(), with_target(), layers=["input", "1"], target=lambda batch: batch[1])
    assert other == plain
    values = mireg.measure(network(), loader((64,)), layers=["input", "1"], target=lambda batch: batch[0][:, :2])
    assert values.layers[0].about_target > 1


def test_a_batch_without_a_target_says_so() -> None:
    with pytest.raises(ValueError, match="target=True finds no target in a batch that is a Tensor"):
        mireg.measure(network(), [torch.randn(64, 4)], layers=["1", "3"], target=True)


@pytest.mark.parametrize(
    ("batches", "options", "error", "message"),
    [
        (torch.zeros(64, 4), {}, TypeError, "the loader is a Tensor: give the batches"),
        ([()], {}, ValueError, "a batch is an empty tuple"),
        (loader(), {"max_batches": 0}, ValueError, "max_batches=0: at least 1"),
        (loader(), {"target": "age"}, ValueError, "target 'age' is not in a batch that is a tuple of Tensor"),
    ],
    ids=str,
)
def test_mistakes(batches: Any, options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        mireg.measure(network(), batches, **options)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = network()

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.body(torch.cat([a, b], 1))


def test_dicts_and_several_inputs() -> None:
    expected = mireg.measure(network(), with_target(), target=True)
    whole = [(x[:, :1], x[:, 1:], y) for x, y in with_target()]
    dicts = [{"a": a, "b": b, "label": y} for a, b, y in whole]
    nested = [[[a, b], y] for a, b, y in whole]
    for loader, target in ((whole, 2), (dicts, True), (dicts, "label"), (nested, True)):
        found = mireg.measure(Two(), loader, layers=["body.1", "body.3"], target=target)
        assert [r.nats for r in found.records] == [r.nats for r in expected.records[-1:]]
        assert [r.about_target for r in found.layers] == [r.about_target for r in expected.layers[-2:]]


def test_a_network_of_one_layer_has_nothing_to_measure_between() -> None:
    with pytest.raises(NoPairsError, match="finds 0 layers: measuring takes at least two"):
        measure(nn.Linear(3, 2), [torch.randn(20, 3)])
