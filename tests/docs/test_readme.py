"""What the README asks for is accepted as it stands: its Python, and its commands."""

from __future__ import annotations

import ast
import inspect
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from torch import nn

import mireg
import train
from mireg.ablation.command.arguments import parse
from mireg.ablation.command.request import chosen_study
from mireg.ablation.data import load

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "README.md").read_text()
SNIPPETS = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
COMMANDS = [line.partition("#")[0] for line in re.findall(r"^ {4}python train\.py(.*)$", TEXT, re.MULTILINE)]
(LAB, _) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "own_network.md").read_text(), re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS)
def test_snippets_are_python(snippet: str) -> None:
    ast.parse(snippet)


def test_compare_takes_what_the_snippet_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    (snippet,) = [text for text in SNIPPETS if "compare" in text]
    signature, given = inspect.signature(mireg.ablation.compare), []
    monkeypatch.setattr(mireg.ablation, "compare", lambda *a, **b: given.append(signature.bind(*a, **b)), raising=False)
    names: dict[str, Any] = {"mireg": mireg, "make_network": lambda: nn.Linear(2, 2)}
    exec(compile(snippet, "README.md", "exec"), names)
    (bound,) = given
    assert bound.arguments["train"] is names["train"]
    assert bound.arguments["goal"] is not None


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_a_study(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lab.py").write_text(LAB)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.delitem(sys.modules, "lab", raising=False)
    load.cache_clear()
    study = chosen_study(parse(shlex.split(command), "train.py"), train.catalogue())
    assert all(cell.target is not None or cell.budget_of or cell.schedule != "constant" for cell in study.cells)


def test_ablation_is_reached_from_the_package() -> None:
    assert mireg.ablation.compare is not None
    with pytest.raises(AttributeError, match="module 'mireg' has no attribute 'ablations'"):
        _ = mireg.ablations
