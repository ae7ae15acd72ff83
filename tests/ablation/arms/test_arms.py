"""Each arm trains, and does what it says and nothing else."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import mireg
import models
from mireg import estimators
from mireg.ablation.arms import ARMS, Term, arm
from mireg.ablation.arms.loss_term import NoTerm
from mireg.ablation.arms.lsuv import lsuv
from mireg.ablation.errors import UserError
from mireg.ablation.study.config import Cell
from tests.ablation.arms.small import X, Y, network
from tests.ablation.running import run

OTHER_MODELS = {
    "pre-norm": ("transformer", {"depth": 2, "width": 16, "patch": 4}),
}
"""Where an arm changes an option that an MLP does not have."""

NOT_ON_IMAGES = ("pairnorm",)


@pytest.mark.parametrize("name", [name for name in ARMS if "mi-" + name not in ARMS and name not in NOT_ON_IMAGES])
def test_trains_a_step(tmp_path: Path, name: str) -> None:
    model, options = OTHER_MODELS.get(name, ("mlp", {"depth": 4, "width": 16}))
    cell = Cell("cell", "digits", model, 0.8, 2, options, eval_every=2).as_trained(name)
    result = run(tmp_path, cell, name)
    assert result["failure"] is None
    assert [point["step"] for point in result["curve"]] == [0, 2]
    assert (result["curve"][-1]["term_share"] is None) == (ARMS[name].term is NoTerm)


def test_mi_is_what_wrapping_does() -> None:
    arm: Any = ARMS["mi"].term(network(), Term(), X[:2]).model
    ours, theirs = arm.regularizer, mireg.wrap(network()).regularizer
    assert ours.samples == theirs.samples
    assert repr(ours.estimator) == repr(theirs.estimator)
    assert [ours.weight(step) for step in range(0, 500, 7)] == [theirs.weight(step) for step in range(0, 500, 7)]


def test_the_page_on_arms_has_each_of_them() -> None:
    page = (Path(__file__).parents[3] / "docs" / "arms.md").read_text()
    rows = re.findall(r"^\| (`[^|]*) \|", page, re.MULTILINE)
    named = {name for row in rows for name in re.findall(r"`([^`]+)`", row)}
    others = {name for name in estimators.names() if name not in ("kde", "binning")}
    of_others = {name for name in ARMS if any(part in others for part in name.split("-"))}
    assert named == set(ARMS) - of_others


class TestControls:
    @staticmethod
    def read(name: str, target: torch.Tensor) -> dict[str, float]:
        torch.manual_seed(1)
        term = ARMS[name].term(network(), Term(), X[:2])
        term.model(X)
        assert term(torch.zeros(()), target) is not None
        return {pair: nats.item() for pair, nats in term.values().items()}

    def test_a_shuffled_target_is_another(self) -> None:
        assert list(self.read("target-shuffled", Y)) == list(self.read("mi", Y))
        assert self.read("target-shuffled", Y) != self.read("mi", Y)

    @pytest.mark.parametrize("free", ["mi-label-free", "mi-kde", "mi-binning"])
    def test_shuffled_rows_know_nothing_of_the_input(self, free: str) -> None:
        control = "pairs-shuffled" if free == "mi-label-free" else f"{free.removeprefix('mi-')}-shuffled"
        own, shuffled = self.read(free, Y), self.read(control, Y)
        assert list(own) == list(shuffled)
        assert sum(shuffled.values()) < sum(own.values())

    def test_the_last_layer_alone(self) -> None:
        every, last = self.read("mi", Y), self.read("last-layer", Y)
        assert set(last) < set(every)
        assert len([name for name in last if name.startswith("input→")]) == 2  # of the last layer, and of the target


def test_a_change_of_the_network_is_part_of_the_cell() -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 2, {"depth": 4})
    assert cell.as_trained("none") == cell
    assert cell.as_trained("batchnorm").model_options == {"depth": 4, "batchnorm": True}
    assert cell.as_trained("pairnorm").model_options == {"depth": 4, "pairnorm": True}
    assert cell.as_trained("warm-up").warmup_steps == 2
    assert replace(cell, steps=300).as_trained("warm-up").warmup_steps == 100
    assert replace(cell, warmup_steps=1).as_trained("he").warmup_steps == 1


def returns_a_number(network: nn.Module) -> Any:
    """Changes no network."""
    return 3


def test_what_a_custom_change_of_the_network_must_return() -> None:
    with pytest.raises(UserError, match="returned int: return a network, or None to keep this one"):
        arm(f"{__name__}:returns_a_number").initialised(nn.Linear(2, 2), torch.ones(2, 2))


def test_an_unknown_arm_has_a_hint() -> None:
    with pytest.raises(UserError, match=r"unknown arm 'lbee' \(did you mean lbe\?\)"):
        Cell("cell", "digits", "mlp", 0.8, 2, arms=("lbee",))


class TestLSUV:
    def test_every_layer_has_unit_variance_and_orthogonal_weights(self) -> None:
        net = models.build("cnn", {"depth": 3, "width": 8}, (1, 8, 8), 3)
        lsuv(net, X)
        seen = []
        layers = [m for m in net.modules() if isinstance(m, nn.Linear | nn.Conv2d)]
        for layer in layers:
            layer.register_forward_hook(lambda module, inputs, output: seen.append(output.std().item()))
        net(X)
        assert seen == pytest.approx([1.0] * 5, rel=1e-4)
        weight = layers[1].weight.flatten(1)
        gram = weight @ weight.T
        torch.testing.assert_close(gram / gram[0, 0], torch.eye(8), atol=1e-4, rtol=0)

    def test_statistics_and_random_numbers_stay(self) -> None:
        net = models.build("mlp", {"depth": 3, "width": 6, "batchnorm": True}, (1, 8, 8), 3)
        before, state = {name: b.clone() for name, b in net.named_buffers()}, torch.get_rng_state()
        lsuv(net, X)
        assert torch.equal(torch.get_rng_state(), state)
        assert all(torch.equal(b, before[name]) for name, b in net.named_buffers())
        assert not any(m._forward_hooks for m in net.modules())

    def test_inputs_without_variance_leave_finite_weights(self) -> None:
        lsuv(net := network(), torch.zeros_like(X))
        assert all(p.isfinite().all() for p in net.parameters())

    def test_it_says_where_it_does_not_apply(self) -> None:
        with pytest.raises(UserError, match=r"'lsuv' does not apply: cell.weight_ih belongs to a LSTMCell"):
            lsuv(nn.ModuleDict({"cell": nn.LSTMCell(2, 3)}), X)


def test_muon_takes_the_optimizer_of_the_cell() -> None:
    cell = Cell("cell", "digits", "mlp", 0.8, 2, optimizer="sgd")
    assert (cell.as_trained("muon").optimizer, cell.as_trained("mi").optimizer) == ("muon", "sgd")
