"""Both examples of docs/own_network.md run as they stand, and its table of defaults is true."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from mireg.ablation.command.request import OWN, OWN_ARMS, OWN_SEEDS

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


def test_defaults() -> None:
    rows = dict(re.findall(r"^\| (`--.*?) \| (.*?) \|$", TEXT, re.MULTILINE))
    assert rows["`--dataset`, `--model`"] == f"`{OWN.dataset}`; `{OWN.model}`, for text `gpt`"
    assert rows["`--arms`, `--seeds`, `--steps`"] == f"`{' '.join(OWN_ARMS)}`, {OWN_SEEDS}, {OWN.steps}"
    assert rows["`--batch-size`, `--eval-every`"] == f"{OWN.batch_size}, {OWN.eval_every}"
    optimizer = f"`{OWN.optimizer}`, {OWN.lr}, `{OWN.schedule}`, {OWN.warmup_steps}"
    assert rows["`--optimizer`, `--lr`, `--schedule`, `--warmup-steps`"] == optimizer
    assert rows["`--weight-decay`, `--momentum` (of `sgd`)"] == f"{OWN.weight_decay:g}, {OWN.momentum}"
    rest = f"`{OWN.augment}`, `{OWN.precision}`, {'on' if OWN.compile else 'off'}"
    assert rows["`--augment`, `--precision`, `--compile`"] == rest
    assert OWN.target is None
