"""A study that is killed again and again ends as one that never was."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

ROOT = Path(__file__).parents[3]
KILLS = 20
STUDY = ["--arms", "none", "mi", "--workers", "1", "--seeds", "1", "--checkpoint-seconds", "0.05"]
SIZE = ["--steps", "1000", "--eval-every", "100"]
RECIPE = ["--optimizer", "adamw", "--weight-decay", "0.1", "--schedule", "cosine", "--augment", "flip-crop"]


def start(kills: int, out: Path) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "tests/ablation/execution/kill_study.py", str(kills), str(out), *STUDY, *SIZE, *RECIPE],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def untimed(value: Any) -> Any:
    """Without what a clock decides, and the checksum over it."""
    if isinstance(value, dict):
        clocked = ("seconds", "step_ms", "sha256", "equal_time", "seconds_to_target", "seconds_ratio", "seconds_ci95")
        return {key: untimed(item) for key, item in value.items() if key not in clocked}
    return [untimed(item) for item in value] if isinstance(value, list) else value


@pytest.mark.slow
def test_twenty_kills(tmp_path: Path) -> None:
    processes = {name: start(kills, tmp_path / name) for name, kills in (("whole", 0), ("killed", KILLS))}
    output = {name: process.communicate(timeout=280) for name, process in processes.items()}
    assert [process.returncode for process in processes.values()] == [0, 0], output
    printed, errors = output["killed"]
    assert int(printed.splitlines()[-1]) == KILLS
    assert "continues at step" in errors
    assert "damaged" not in errors

    for path in ("summary.json", *(f"runs/lenet/{arm}/seed-0/result.json" for arm in ("none", "mi"))):
        whole, killed = (json.loads((tmp_path / name / path).read_text()) for name in processes)
        assert untimed(whole) == untimed(killed)
    for arm in ("none", "mi"):
        folders = [tmp_path / name / "runs/lenet" / arm / "seed-0" for name in processes]
        whole_weights, killed_weights = ((folder / "weights.pt").read_bytes() for folder in folders)
        assert whole_weights == killed_weights
        curves = [EventAccumulator(str(folder)).Reload().Scalars("validation/accuracy") for folder in folders]
        assert [(e.step, e.value) for e in curves[0]] == [(e.step, e.value) for e in curves[1]]
        leftovers = {path.name for path in folders[1].iterdir() if not path.name.startswith("events")}
        assert leftovers == {"weights.pt", "result.json", "lock"}
