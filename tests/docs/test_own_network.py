"""Both examples of docs/own_network.md run as they stand, and its table of settings is made from them."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mireg.ablation.arms import Term
from mireg.ablation.command.request import OWN, OWN_ARMS, OWN_SEEDS
from mireg.ablation.setting import flag, settings_of

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "own_network.md").read_text()
LAB, MINE = re.findall(r"```python\n(.*?)```", TEXT, re.DOTALL)
(COMMAND,) = re.findall(r"```bash\npython train.py (.*?)\n```", TEXT, re.DOTALL)


def python(folder: Path, *argv: str) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, *argv]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def cell_of(folder: Path) -> dict[str, Any]:
    (cell,) = json.loads((folder / "summary.json").read_text())["cells"]
    return dict(cell)


def test_network_and_data(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(LAB)
    python(tmp_path, str(ROOT / "train.py"), *shlex.split(COMMAND), "--workers", "1")
    cell = cell_of(tmp_path / "out" / "lab-load-lab-Net")
    assert (cell["metric"], cell["final_split"], cell["budget_steps"]) == ("loss", "test", 60)
    assert {name: arm["n_seeds"] for name, arm in cell["arms"].items()} == {"none": 2, "mi": 2}


def test_installed_command_takes_the_same_options(tmp_path: Path) -> None:
    (tmp_path / "lab.py").write_text(LAB)
    argv = [*shlex.split(COMMAND), "--steps", "5", "--seeds", "1", "--workers", "1", "--arms", "none"]
    code = "import sys; from mireg.ablation.command import main; assert 'models' not in sys.modules; sys.exit(main())"
    python(tmp_path, "-c", code, *argv)
    assert cell_of(tmp_path / "out" / "lab-load-lab-Net")["budget_steps"] == 5


def test_training_loop(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(MINE)
    python(tmp_path, "mine.py")
    cell = cell_of(tmp_path / "out" / "mine")
    assert (cell["cell"], cell["metric"], cell["target"], cell["budget_steps"]) == ("train", "accuracy", 0.9, 200)


def settings_table() -> list[str]:
    """The table of the settings of a cell and of the term, as lines of Markdown."""
    rows = ["| setting | default | |", "|---|---|---|"]
    for part in (OWN, Term()):
        for name, of in settings_of(part).items():
            value = getattr(part, of.name)
            default = {"None": "", "False": "off", "('auto',)": "all"}.get(str(value), f"`{value}`")
            rows.append(f"| `{flag(name)}` | {default} | {of.metadata['help']} |")
    return rows


def test_the_table_of_settings_is_made_from_them() -> None:
    missing = [row for row in settings_table() if row not in TEXT.splitlines()]
    assert "\n".join(settings_table()) in TEXT, "docs/own_network.md lacks rows of its table:\n" + "\n".join(missing)
    assert f"`--arms`, `--seeds` and `--steps` are `{' '.join(OWN_ARMS)}`, {OWN_SEEDS} and {OWN.steps}" in TEXT
