"""The documentation: the notebook runs, the site builds without a warning and loads nothing from elsewhere."""

from __future__ import annotations

import importlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "quickstart.ipynb"


def test_notebook_runs_and_says_what_it_shows(capsys: pytest.CaptureFixture[str]) -> None:
    cells = [cell for cell in json.loads(NOTEBOOK.read_text())["cells"] if cell["cell_type"] == "code"]
    names: dict[str, Any] = {}
    for cell in cells:
        exec(compile("".join(cell["source"]), str(NOTEBOOK), "exec"), names)
    shown = "".join("".join(output.get("text", "")) for cell in cells for output in cell["outputs"])
    assert re.search(r"accuracy without the term: \d+%, with it: 9\d%", shown)
    assert names["with_term"][-1][1] > 0.9 > 0.5 > names["without"][-1][1]
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines() if "→" in line] == [
        line.split()[0] for line in shown.splitlines() if "→" in line
    ]


@pytest.mark.parametrize(
    "name",
    [
        "mireg",
        "mireg.estimators",
        "mireg.schedules",
        "mireg.diagnostics",
        "mireg.ablation.report.summary",
        "eval.report",
    ],
)
def test_every_public_name_has_a_docstring(name: str) -> None:
    module = importlib.import_module(name)
    own = [key for key, value in vars(module).items() if getattr(value, "__module__", "") == name]
    for public in getattr(module, "__all__", [key for key in own if not key.startswith("_")]):
        value = getattr(module, public)
        assert not callable(value) or value.__doc__, f"{name}.{public} has no docstring"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("mkdocstrings", reason="the tools for the site are missing: pip install 'mireg[docs]'")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    environment = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    built = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_site_loads_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        text = page.read_text()
        loaded = re.findall(r"<(?:script|img|iframe)[^>]+src=\"?([^\" >]+)", text)
        loaded += re.findall(r"<link(?![^>]*rel=\"?canonical)[^>]+href=\"?([^\" >]+)", text)
        assert not [link for link in loaded if re.match(r"(https?:)?//", link)], page
    assert not any("@import" in sheet.read_text() for sheet in site.rglob("*.css"))


def test_site_shows_docstrings_and_the_notebook(site: Path) -> None:
    reference = (site / "api" / "mireg.html").read_text()
    assert "Examples:" in reference
    assert "&gt;&gt;&gt; </span>" in reference  # coloured as code, not run together as a quotation
    assert "data:image/png;base64," in (site / "quickstart.html").read_text()
    assert (site / "quickstart.ipynb").exists()
