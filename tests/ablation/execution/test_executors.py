"""The same study serially, in workers that die, on a cluster that loses a machine, and shared by processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

import train
from mireg.ablation.storage.lock import LOCK

ROOT = Path(__file__).parents[3]
TEXT = ["--dataset", f"text:{ROOT / 'LICENSE'}", "--batch-size", "16"]
SIZE = ["--steps", "120", "--eval-every", "40", "--model-options", "depth=2", "width=8", "heads=2", "context=8"]
STUDY = [*TEXT, "--seeds", "2", "--lr", "0.0003", *SIZE]
"""A next-token cell. At a larger rate, training amplifies the rounding of sums over processes."""

WORDS = [*STUDY, "--checkpoint-seconds", "0.02"]
ARMS = ["--arms", "none", "mi"]


def outcome(out: Path) -> dict[str, Any]:
    """Per run, its weights and its curve without what a clock decides."""
    return {
        str(path.parent.relative_to(out)): (
            hashlib.sha256((path.parent / "weights.pt").read_bytes()).hexdigest(),
            [
                {key: value for key, value in point.items() if key not in ("seconds", "step_ms")}
                for point in json.loads(path.read_text())["curve"]
            ],
        )
        for path in out.glob("runs/*/*/*/result.json")
    }


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("serial")
    assert train.main([*WORDS, *ARMS, "--workers", "1", "--out", str(out)]) == 0
    assert len(outcome(out)) == 4
    return out


def once(condition: Callable[[], bool], action: Callable[[], None]) -> threading.Thread:
    """Do something in a thread when a condition has come true."""

    def watch() -> None:
        deadline = time.monotonic() + 200
        while not condition():
            if time.monotonic() > deadline:
                return
            time.sleep(0.01)
        action()

    thread = threading.Thread(target=watch)
    thread.start()
    return thread


def trainers(out: Path) -> list[int]:
    """The processes whose runs have written a checkpoint after their first step."""
    return [
        int(path.with_name(LOCK).read_text().split()[1])
        for path in out.rglob("checkpoint.pt")
        if torch.load(path, weights_only=True)["step"] > 0
    ]


def parent(pid: int) -> int:
    """The parent of a process, 0 if that has ended."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except FileNotFoundError:
        return 0


@pytest.mark.slow
def test_workers_one_of_which_is_killed(tmp_path: Path, serial: Path, capsys: pytest.CaptureFixture[str]) -> None:
    killer = once(lambda: bool(trainers(tmp_path)), lambda: os.kill(trainers(tmp_path)[0], signal.SIGKILL))
    assert train.main([*WORDS, *ARMS, "--workers", "2", "--out", str(tmp_path)]) == 0
    killer.join()
    errors = capsys.readouterr().err
    assert errors.count("its worker process died (SIGKILL): going on in another") == 1
    assert "continues at step" in errors
    assert outcome(tmp_path) == outcome(serial)


def test_without_ray(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert train.main([*WORDS, *ARMS, "--executor", "ray", "--out", str(tmp_path)]) == 2
    last = "train.py: --executor ray needs Ray: pip install 'mireg[ray]'"
    assert capsys.readouterr().err.splitlines()[-1] == last


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_ray_cluster_one_machine_of_which_is_lost(
    tmp_path: Path, serial: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    soon = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
    node: dict[str, Any] = {"num_cpus": 1, "object_store_memory": 80 << 20}
    # Ray's workers are nice by default, and wait for all that this machine has to do besides.
    config = {**soon, "worker_niceness": 0}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "_system_config": config})
    try:
        lost = cluster.add_node(**node)
        raylet = lost.all_processes["raylet"][0].process.pid
        killer = once(
            lambda: raylet in map(parent, trainers(tmp_path)),
            lambda: cluster.remove_node(lost, allow_graceful=False),
        )
        words = [*WORDS, *ARMS, "--executor", "ray", "--ray-address", cluster.address, "--out", str(tmp_path)]
        assert train.main(words) == 0
        killer.join()
    finally:
        cluster.shutdown()  # type: ignore[no-untyped-call]
    assert "continues at step" in capsys.readouterr().err
    assert outcome(tmp_path) == outcome(serial)


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.slow
def test_torchrun_one_process_of_which_is_killed(tmp_path: Path, serial: Path) -> None:
    """Two processes take as many samples a step as one, and end where it ends."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--max-restarts", "1"]
    process = subprocess.Popen(
        [*launcher, "--monitor-interval", "0.1", "train.py", *WORDS, *ARMS, "--out", str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    killer = once(lambda: bool(trainers(tmp_path)), lambda: os.kill(children(process.pid)[-1], signal.SIGKILL))
    printed, errors = process.communicate(timeout=250)
    killer.join()
    assert process.returncode == 0, errors
    assert re.search(r"seed-0: continues at step \d+/120", errors)
    assert printed.count("report: ") == 1
    for name, (_, curve) in outcome(tmp_path).items():
        _, alone = outcome(serial)[name]
        assert [point["step"] for point in curve] == [point["step"] for point in alone]
        for ours, theirs in zip(curve[1:], alone[1:], strict=True):
            assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-4)
    assert len(outcome(tmp_path)) == 4


def test_an_optimizer_that_this_torch_lacks_is_refused_before_any_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(torch.optim, "Muon", raising=False)
    assert train.main(["--optimizer", "muon", "--steps", "2", "--out", str(tmp_path / "out")]) == 2
    assert "optimizer='muon' needs PyTorch 2.9 or newer" in capsys.readouterr().err
