"""What `import mireg` brings along: it must not make anybody wait."""

from __future__ import annotations

import subprocess
import sys

import pytest

SLOW = {
    "jinja2",
    "lightning",
    "matplotlib",
    "pandas",
    "ray",
    "rich",
    "scipy",
    "sklearn",
    "sympy",
    "tensorboard",
    "torch._dynamo",
    "torch._inductor",
    "torchvision",
    "transformers",
    "triton",
    "tyro",
}

BROUGHT = """
import importlib, sys, torch
before = set(sys.modules)
importlib.import_module(sys.argv[1])
print(*sorted(set(sys.modules) - before))
"""


@pytest.mark.parametrize("module", ["mireg", "models"])
def test_import_brings_nothing_slow(module: str) -> None:
    found = subprocess.run([sys.executable, "-c", BROUGHT, module], capture_output=True, text=True, check=True)
    brought = set(found.stdout.split())
    assert module in brought
    assert not {name for name in brought for slow in SLOW if name == slow or name.startswith(f"{slow}.")}
