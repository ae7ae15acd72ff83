"""Optimizers, schedules, augmentation and precision: what each does, and that a resumed run goes on with all of it."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import models
from mireg.ablation.arms import Term
from mireg.ablation.data import load
from mireg.ablation.errors import Stopped, UserError
from mireg.ablation.study.config import Cell, RunSpec
from mireg.ablation.training.group import Group
from mireg.ablation.training.recipe import FlipCrop, HiddenMuon, hidden_matrices, lr_factor, make_optimizer
from tests.ablation.running import train_digits

CPU = torch.device("cpu")
DIGITS = load("digits", Path())
NETWORK = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2))


def cell(**changes: Any) -> Cell:
    options = {"name": "cell", "dataset": "digits", "model": "mlp", "target": 0.8, "steps": 20, **changes}
    return Cell(**options)


@pytest.mark.parametrize("optimizer", ["adam", "adamw", "sgd", "muon"])
def test_biases_and_normalisation_do_not_decay(optimizer: str) -> None:
    made = make_optimizer(NETWORK, cell(optimizer=optimizer, weight_decay=0.1, lr=0.5), "none")
    rates = {id(p): group["weight_decay"] for group in made.param_groups for p in group["params"]}
    assert {name: rates[id(p)] for name, p in NETWORK.named_parameters()} == {
        name: 0.1 if p.ndim == 2 else 0.0 for name, p in NETWORK.named_parameters()
    }
    assert {group["lr"] for group in made.param_groups} == {0.5}


def test_sgd_has_nesterov_momentum() -> None:
    (group,) = make_optimizer(NETWORK, cell(optimizer="sgd", momentum=0.8), "none").param_groups
    assert (group["momentum"], group["nesterov"]) == (0.8, True)
    (group,) = make_optimizer(NETWORK, cell(optimizer="sgd", momentum=0.0), "none").param_groups
    assert not group["nesterov"]


@pytest.mark.parametrize(
    ("name", "shape", "hidden"),
    [
        ("mlp", (1, 8, 8), ["layers.1.0.weight", "layers.2.0.weight"]),
        ("cnn", (1, 8, 8), []),
        (
            "gpt",
            (16,),
            [f"layers.0.{part}.weight" for part in ("attention.qkv", "attention.out", "mlp.inner", "mlp.out")],
        ),
    ],
)
def test_muon_takes_the_matrices_of_hidden_layers(name: str, shape: tuple[int, ...], hidden: list[str]) -> None:
    network = models.build(name, {"depth": 1 if name == "gpt" else 3, "width": 8}, shape, 5)
    names = {id(p): key for key, p in network.named_parameters()}
    assert [names[id(p)] for p in hidden_matrices(network)] == hidden
    optimizer = HiddenMuon(network, [{"params": list(network.parameters()), "lr": 1e-3, "weight_decay": 0.0}], cell())
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(network.parameters()))


@pytest.mark.parametrize(
    ("schedule", "halfway", "last"), [("constant", 1.0, 1.0), ("linear", 0.5, 0.1), ("cosine", 0.5, 0.0245)]
)
def test_schedules(schedule: str, halfway: float, last: float) -> None:
    chosen = cell(schedule=schedule, warmup_steps=10, steps=20)
    assert [lr_factor(chosen, step) for step in (0, 4, 9, 10)] == [0.1, 0.5, 1.0, 1.0]
    assert lr_factor(chosen, 15) == pytest.approx(halfway)
    assert lr_factor(chosen, 19) == pytest.approx(last, abs=1e-4)


class TestFlipCrop:
    def test_each_image_is_a_flipped_and_moved_copy(self) -> None:
        images = torch.arange(1, 1 + 40 * 8 * 8).reshape(40, 1, 8, 8).float()
        moved = FlipCrop(0)(images, Group(CPU))
        found = set()
        for image, result in zip(images, moved, strict=True):
            padded = torch.nn.functional.pad(image[0], (1, 1, 1, 1))
            crops = {
                (flip, y, x): (
                    padded.unfold(0, 8, 1).unfold(1, 8, 1)[y, x].flip(1) if flip else padded[y : y + 8, x : x + 8]
                )
                for flip, y, x in itertools.product((False, True), range(3), range(3))
            }
            same = [key for key, crop in crops.items() if torch.equal(crop, result[0])]
            assert len(same) == 1
            found.update(same)
        assert len(found) > 10

    def test_arms_of_a_seed_see_the_same_images_and_seeds_do_not(self) -> None:
        images = torch.randn(64, 3, 16, 16)
        first, same, other = (FlipCrop(seed)(images, Group(CPU)) for seed in (1, 1, 2))
        assert torch.equal(first, same)
        assert not torch.equal(first, other)

    def test_processes_share_what_is_drawn(self) -> None:
        images = torch.randn(6, 1, 8, 8)
        whole = FlipCrop(0)(images, Group(CPU))
        for rank in range(2):
            part = FlipCrop(0)(images[rank::2], Group(CPU, rank, 2))
            assert torch.equal(part, whole[rank::2])

    def test_needs_images(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="augment='cutout': choose from none, flip-crop"):
            cell(augment="cutout")


def build(cell: Cell, dataset: Any) -> nn.Module:
    return models.build("mlp", {"depth": 3, "width": 16}, dataset.input_shape, dataset.outputs)


def run(folder: Path, chosen: Cell, arm: str = "none", stop_after: int | None = None) -> tuple[bytes, list[Any]]:
    """Train, and return the weights and the curve without what a clock decides."""
    asked = itertools.count()
    spec = RunSpec(chosen, arm, 3, Term(decay_steps=10))
    train_digits(spec, folder, build=build, stop=lambda: next(asked) == stop_after)
    result = json.loads((folder / "result.json").read_text())
    assert result["failure"] is None
    curve = [{k: v for k, v in p.items() if k not in ("seconds", "step_ms")} for p in result["curve"]]
    return (folder / "weights.pt").read_bytes(), curve


RECIPES: dict[str, dict[str, Any]] = {
    "adamw, cosine, augmented": {
        "optimizer": "adamw",
        "schedule": "cosine",
        "warmup_steps": 4,
        "weight_decay": 0.1,
        "augment": "flip-crop",
    },
    "muon, linear": {"optimizer": "muon", "schedule": "linear", "weight_decay": 0.1},
    "sgd, bfloat16": {"optimizer": "sgd", "precision": "bfloat16", "weight_decay": 5e-4},
    "adam, float16": {"precision": "float16"},
}


@pytest.mark.parametrize("arm", ["none", "mi"])
@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_that_is_stopped_goes_on_bit_for_bit(tmp_path: Path, recipe: str, arm: str) -> None:
    chosen = cell(steps=12, eval_every=5, batch_size=100, lr=1e-2, **RECIPES[recipe])
    whole = run(tmp_path / "whole", chosen, arm)
    for _ in range(3):
        with pytest.raises(Stopped):
            run(tmp_path / "cut", chosen, arm, stop_after=3)
    assert run(tmp_path / "cut", chosen, arm) == whole


@pytest.mark.parametrize("recipe", RECIPES)
def test_each_recipe_learns_and_differs_from_the_default(tmp_path: Path, recipe: str) -> None:
    chosen = {"steps": 80, "eval_every": 40, "lr": 0.1 if "sgd" in recipe else 1e-2}
    weights, curve = run(tmp_path / "one", cell(**chosen, **RECIPES[recipe]))
    assert curve[-1]["validation_accuracy"] > 0.5
    assert weights != run(tmp_path / "two", cell(**chosen))[0]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
def test_compiled(tmp_path: Path) -> None:
    chosen = {"steps": 4, "eval_every": 2, "lr": 1e-2}
    for arm in ("none", "mi"):
        torch.compiler.reset()
        compiled, plain = (run(tmp_path / arm / str(c), cell(compile=c, **chosen), arm)[1] for c in (True, False))
        for a, b in zip(compiled[1:], plain[1:], strict=True):
            assert a["validation_accuracy"] == pytest.approx(b["validation_accuracy"], abs=0.02)
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-3)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": "adan"}, "optimizer='adan': choose from adam, adamw, sgd, muon"),
        ({"schedule": "step"}, "schedule='step': choose from constant, cosine, linear"),
        ({"precision": "int8"}, "precision='int8': choose from float32, bfloat16, float16"),
        ({"warmup_steps": 21}, "warmup_steps=21: give 0 to the number of steps"),
        ({"weight_decay": -1.0}, r"weight_decay=-1\.0: give at least 0"),
        ({"momentum": 1.0}, r"momentum=1\.0: give less than 1"),
    ],
)
def test_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        cell(**changes)


def test_images_of_a_run_are_augmented(tmp_path: Path) -> None:
    seen: list[Tensor] = []

    def watching(cell: Cell, dataset: Any) -> nn.Module:
        network = build(cell, dataset)
        network.register_forward_pre_hook(lambda module, args: seen.append(args[0]) if module.training else None)
        return network

    for augment in ("none", "flip-crop"):
        spec = RunSpec(cell(augment=augment, steps=1, batch_size=64), "none", 0, Term())
        train_digits(spec, tmp_path / augment, build=watching)
    plain, augmented = seen
    assert plain.shape == augmented.shape
    assert not torch.equal(plain, augmented)
