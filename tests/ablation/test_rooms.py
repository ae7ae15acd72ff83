"""Which part of the package may import which."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ABLATION = ROOT / "mireg" / "ablation"

ORDER = (
    {"errors", "events"},
    {"setting", "user_code", "random_state", "fingerprint"},
    {"tasks"},
    {"arms", "data"},
    {"study"},
    {"storage"},
    {"training"},
    {"report"},
    {"execution"},
    {"comparison", "command"},
)
"""Each may import itself and what is above it."""


def imported(path: Path) -> set[str]:
    """Full names of the modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def room(name: str) -> str:
    return name.split(".")[2]


@pytest.mark.parametrize("rank", range(len(ORDER)), ids=[" ".join(sorted(rooms)) for rooms in ORDER])
def test_a_room_imports_only_rooms_before_it(rank: int) -> None:
    before = set().union(*ORDER[:rank])
    for name in ORDER[rank]:
        files = [*(ABLATION / name).rglob("*.py")] or [ABLATION / f"{name}.py"]
        for file in files:
            for module in imported(file):
                if module.startswith("mireg.ablation."):
                    assert room(module) in before | {name}, f"{file.relative_to(ROOT)} imports {module}"


def test_every_room_has_its_place() -> None:
    rooms = {path.stem for path in ABLATION.iterdir() if path.name not in ("__init__.py", "__pycache__")}
    assert rooms == set().union(*ORDER)


@pytest.mark.parametrize("folder", ["mireg", "models", "eval"])
def test_packages_import_one_way(folder: str) -> None:
    forbidden = {"mireg": {"models", "eval", "train"}, "models": {"mireg.ablation", "eval", "train"}, "eval": {"train"}}
    for file in (ROOT / folder).rglob("*.py"):
        for module in imported(file):
            for other in forbidden[folder]:
                assert module != other, file
                assert not module.startswith(f"{other}."), file


@pytest.mark.slow
def test_the_face_names_what_is_there_without_importing_it() -> None:
    code = "import sys, mireg.ablation as a; assert 'mireg.ablation.comparison' not in sys.modules; "
    code += "assert all(getattr(a, name) is not None for name in a.__all__)"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
