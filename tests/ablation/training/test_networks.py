"""Networks from outside: how a factory is called, and one line where it cannot be."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from mireg.ablation.errors import UserError
from mireg.ablation.training.networks import build, is_foreign


class Net(nn.Module):
    """Keeps what it was made with."""

    def __init__(self, outputs: int, input_shape: tuple[int, ...] = (), *, width: int = 4, kind: str = "a") -> None:
        super().__init__()
        self.made = (input_shape, outputs, width, kind)


@pytest.fixture(autouse=True)
def nets(monkeypatch: pytest.MonkeyPatch) -> types.ModuleType:
    module = types.ModuleType("nets")
    monkeypatch.setitem(sys.modules, "nets", module)
    monkeypatch.setattr(sys, "path", list(sys.path))
    module.Net = Net  # type: ignore[attr-defined]
    return module


def made(options: dict[str, Any]) -> Any:
    return build("nets:Net", options, (3, 8, 8), 10).made


def test_a_factory_gets_what_it_has_names_for() -> None:
    assert made({}) == ((3, 8, 8), 10, 4, "a")
    assert made({"width": "16", "kind": "b", "outputs": "7"}) == ((3, 8, 8), 7, 16, "b")


@pytest.mark.parametrize(
    "factory",
    [
        lambda: Net(1),
        lambda outputs: Net(outputs),
        lambda input_shape, outputs, /, width=4: Net(outputs, input_shape, width=width),
        lambda **options: Net(**options),
        lambda *layers, outputs=3: Net(outputs),
    ],
)
def test_fewer_or_other_parameters(nets: types.ModuleType, factory: Callable[..., nn.Module]) -> None:
    nets.make = factory  # type: ignore[attr-defined]
    options = {"outputs": 5} if "options" in factory.__code__.co_varnames else {}
    assert isinstance(build("nets:make", options, (3,), 10), Net)


@pytest.mark.parametrize(
    ("factory", "options", "message"),
    [
        (Net, {"widht": 3}, "nets:make has no option 'widht' (did you mean width?): it has width, kind"),
        (lambda outputs: 3, {}, "nets:make returned int instead of an nn.Module"),
        (lambda shape: Net(1), {}, "parameter 'shape' has no value: name it input_shape or outputs, give it a default"),
        (7, {}, "nets:make: int is not a function or class"),
    ],
)
def test_refused(nets: types.ModuleType, factory: Any, options: dict[str, Any], message: str) -> None:
    nets.make = factory  # type: ignore[attr-defined]
    with pytest.raises(UserError) as error:
        build("nets:make", options, (3,), 10)
    assert message in str(error.value)


def test_timm_and_torchvision() -> None:
    pytest.importorskip("timm")
    images = torch.randn(2, 1, 32, 32)
    assert build("timm:resnet10t", {}, (1, 32, 32), 7).eval()(images).shape == (2, 7)
    network = build("torchvision:mobilenet_v3_small", {"dropout": "0.5"}, (3, 32, 32), 7).eval()
    assert network(images.expand(2, 3, 32, 32)).shape == (2, 7)
    assert any(m.p == 0.5 for m in network.modules() if isinstance(m, nn.Dropout))


def test_names_of_networks_from_outside() -> None:
    assert [is_foreign(name) for name in ("a:b", "timm:x", "mlp", ":b", "a:")] == [True, True, False, False, False]
