"""The commands that the pages name take the options that the pages give them."""

from __future__ import annotations

import importlib
import re
import shlex
from pathlib import Path

import pytest

from mireg.ablation import command

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAM = r"(?:python -m eval\.\w+|python train\.py|mireg report)\b"
WRITTEN = re.compile(rf"^ {{4}}({PROGRAM}(?:[^\n#\\]|\\\n)*)|`({PROGRAM}[^`]*)`", re.MULTILINE)
PLACEHOLDER = re.compile(r"\bNAME\b|\.\.\.")
COMMANDS = {
    " ".join((block or inline).replace("\\\n", " ").split())
    for page in PAGES
    for block, inline in WRITTEN.findall(page.read_text())
}


@pytest.mark.parametrize("words", sorted(line for line in COMMANDS if not PLACEHOLDER.search(line)))
def test_options_are_known(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [*shlex.split(words), "--help"]  # comes last, so that all before it is read
    if given[0] == "mireg":
        main, given = command.main, given[1:]
    elif given[1] == "-m":
        module = importlib.import_module(given[2])
        main = (module if hasattr(module, "main") else importlib.import_module(f"{given[2]}.__main__")).main
        given = given[3:]
    else:
        main, given = importlib.import_module("train").main, given[2:]
    monkeypatch.setattr("sys.argv", [words, *given])
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
