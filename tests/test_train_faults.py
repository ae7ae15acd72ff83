"""What goes wrong around a study: each fault is named in one line, and what was finished stays as it was."""

from __future__ import annotations

import errno
import gzip
import json
import os
import resource
import signal
import struct
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import train
from mireg.ablation import report
from mireg.ablation.data import named
from mireg.ablation.execution import job, local
from mireg.ablation.report import sources
from mireg.ablation.storage.lock import locked

TINY = [
    "--workers",
    "1",
    "--seeds",
    "1",
    "--steps",
    "20",
    "--eval-every",
    "10",
]


@pytest.fixture(autouse=True)
def no_report(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take longer than these studies."""
    monkeypatch.setattr(sources, "report", lambda out: {"cells": []})


@pytest.fixture
def out(tmp_path: Path) -> Path:
    return tmp_path / "out"


def study(out: Path, *words: str) -> int:
    return train.main([*TINY, "--out", str(out), "--arms", "none", "mi", *words])


def files(out: Path) -> dict[Path, bytes]:
    """What is finished in a study."""
    return {path: path.read_bytes() for path in out.glob("runs/*/*/*/*") if path.name in ("result.json", "weights.pt")}


def last_line(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


class TestFolder:
    def test_again_does_nothing_and_more_arms_and_seeds_are_added(self, out: Path) -> None:
        assert study(out) == 0
        before = files(out)
        assert len(before) == 4
        assert study(out) == 0
        assert files(out) == before
        assert study(out, "--arms", "mi-kde", "--seeds", "2") == 0
        after = files(out)
        assert len(after) == 8
        assert before.items() <= after.items()
        record = json.loads((out / "study.json").read_text())
        assert (record["arms"], record["seeds"]) == (["none", "mi", "mi-kde"], [0, 1])
        assert record["configuration"]["lenet"]["mi-kde"]["cell"]["steps"] == 20
        assert [call["runs"] for call in record["invocations"]] == [2, 2]  # the second call ran nothing
        assert set(record["invocations"][0]) == {
            "started",
            "command",
            "commit",
            "host",
            "device",
            "processor",
            "versions",
            "runs",
        }
        assert record["invocations"][0]["versions"]["torch"] == torch.__version__.partition("+")[0]

    def test_other_settings_are_refused_with_the_difference(
        self, out: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert study(out) == 0
        before = files(out)
        capsys.readouterr()
        assert study(out, "--steps", "30", "--weight", "0.5") == 2
        line = last_line(capsys)
        assert "lenet/none in" in line
        assert "other settings (cell.steps: 20 → 30; term.weight: 4.0 → 0.5)" in line
        assert study(out, "--dataset", "digits") == 2
        assert "holds the study 'demo', not 'digits-mlp'" in last_line(capsys)
        assert files(out) == before

    def test_damaged_record(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert study(out) == 0
        before = files(out)
        (out / "study.json").write_text('{"study": "de')
        assert study(out) == 0
        assert f"{out / 'study.json'} is damaged" in capsys.readouterr().err
        assert files(out) == before
        (out / "study.json").write_text("")
        assert study(out, "--steps", "30") == 2
        assert "other settings (cell.steps: 20 → 30)" in last_line(capsys)

    def test_in_use(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with locked(out):
            assert study(out) == 2
        assert f"{out} is in use by process {os.getpid()} on" in last_line(capsys)
        assert study(out) == 0

    @pytest.mark.parametrize("name", ["result.json", "weights.pt"])
    @pytest.mark.parametrize("damage", ["cut", "flip"])
    def test_damaged_result(self, out: Path, capsys: pytest.CaptureFixture[str], name: str, damage: str) -> None:
        assert study(out) == 0
        before = files(out)
        path = out / "runs/lenet/mi/seed-0" / name
        whole = path.read_bytes()
        middle = len(whole) // 2
        path.write_bytes(
            whole[:middle] + (b"" if damage == "cut" else bytes([whole[middle] ^ 1]) + whole[middle + 1 :])
        )
        capsys.readouterr()
        assert study(out) == 0
        assert f"{path} is damaged: lenet/mi/seed-0 is run again" in capsys.readouterr().err
        weights = {path: content for path, content in before.items() if path.name == "weights.pt"}
        assert weights.items() <= files(out).items()

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_not_allowed_to_write(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        tmp_path.chmod(0o500)
        assert study(tmp_path / "out") == 2
        assert "Permission denied" in last_line(capsys)

    def test_not_a_folder(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        out.write_text("")
        assert study(out) == 2
        assert f"cannot write {out}" in last_line(capsys)


class TestFullDisk:
    @pytest.mark.parametrize("where", ["checkpoint.pt", "weights.pt", "result.json", "study.json"])
    def test_while_writing(
        self, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, where: str
    ) -> None:
        assert study(out, "--arms", "none") == 0
        before = files(out)
        whole = os.fsync

        def full(file: int) -> None:
            if Path(f"/proc/self/fd/{file}").readlink().name.startswith(where):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            whole(file)

        monkeypatch.setattr(os, "fsync", full)
        capsys.readouterr()
        assert study(out, "--checkpoint-seconds", "0") == 2
        line = last_line(capsys)
        assert line.startswith("train.py: cannot write ")
        assert f"{where} (No space left on device): make room for it" in line
        assert before.items() <= files(out).items()
        monkeypatch.setattr(os, "fsync", whole)
        assert study(out) == 0

    def test_while_reporting(
        self, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(out: Path, console: Any) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(out / "summary.json"))

        monkeypatch.setattr(report, "show", full)
        assert study(out) == 2
        assert "summary.json (No space left on device): make room for it" in last_line(capsys)
        assert len(files(out)) == 4

    @pytest.mark.filterwarnings("ignore:Exception in thread")  # TensorBoard's, which writes in one of its own
    def test_for_true(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        """Writes end in the middle of a file, TensorBoard's among them."""
        limit = resource.getrlimit(resource.RLIMIT_FSIZE)
        before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, limit[1]))
        try:
            assert study(out, "--model-options", "activation=tanh") == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limit)
            signal.signal(signal.SIGXFSZ, before)
        assert "(File too large): make room for it" in last_line(capsys)
        assert not list(out.rglob("*.tmp"))
        assert study(out, "--model-options", "activation=tanh") == 0


class TestData:
    @pytest.fixture
    def idx(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """A small data set in MNIST's format."""
        monkeypatch.setattr(named, "VALIDATION", 20)
        folder = tmp_path / "data"
        folder.mkdir()
        random = np.random.default_rng(0)
        for part, count in (("train", 120), ("t10k", 20)):
            images = random.integers(0, 256, (count, 8, 8), dtype=np.uint8)
            labels = (np.arange(count) % 10).astype(np.uint8)
            for name, array in ((f"{part}-images-idx3", images), (f"{part}-labels-idx1", labels)):
                header = struct.pack(f">HBB{array.ndim}I", 0, 8, array.ndim, *array.shape)
                (folder / f"{name}-ubyte").write_bytes(header + array.tobytes())
        return folder

    def run(self, out: Path, idx: Path) -> int:
        return study(out, "--dataset", "mnist", "--data-dir", str(idx), "--arms", "none", "--batch-size", "20")

    def test_whole(self, out: Path, idx: Path) -> None:
        assert self.run(out, idx) == 0

    def test_a_missing_file(self, out: Path, idx: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (idx / "train-labels-idx1-ubyte").unlink()
        assert self.run(out, idx) == 2
        line = last_line(capsys)
        assert str(idx / "train-labels-idx1-ubyte") in line
        assert "fetch the file again" in line
        assert not out.exists()

    @pytest.mark.parametrize("damage", ["empty", "cut", "magic", "gzip", "gzip cut", "other count", "no samples"])
    def test_a_damaged_file(self, out: Path, idx: Path, capsys: pytest.CaptureFixture[str], damage: str) -> None:
        path = idx / "train-images-idx3-ubyte"
        whole = path.read_bytes()
        if damage.startswith("gzip"):
            path.unlink()
            path = idx / "train-images-idx3-ubyte.gz"
            packed = gzip.compress(whole)
            path.write_bytes(packed[:-100] if damage == "gzip cut" else packed[:20] + b"damage" + packed[26:])
        else:
            changed = {
                "empty": b"",
                "cut": whole[:-100],
                "magic": b"PK\x03\x04" + whole[4:],
                "other count": whole[:4] + struct.pack(">I", 119) + whole[8:-64],
                "no samples": whole[:4] + struct.pack(">I", 0) + whole[8:16],
            }[damage]
            path.write_bytes(changed)
        assert self.run(out, idx) == 2
        line = last_line(capsys)
        assert str(path.parent) in line
        assert "fetch the file again" in line or "fetch its files again" in line
        assert not out.exists()

    def test_damaged_cifar10(self, out: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = tmp_path / "data" / "cifar-10-batches-py"
        folder.mkdir(parents=True)
        (folder / "data_batch_1").write_bytes(b"not a pickle")
        assert study(out, "--dataset", "cifar10", "--data-dir", str(tmp_path / "data")) == 2
        line = last_line(capsys)
        assert "cifar10" in line
        assert str(tmp_path / "data") in line


class Explodes(nn.Module):
    """Its output overflows in the sixteenth training step."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        self.passes = 0

    def forward(self, x: Tensor) -> Tensor:
        self.passes += self.training
        return self.network(x) * (float("inf") if self.passes == 16 else 1.0)


class TestRuns:
    def test_a_run_that_breaks_leaves_the_others(
        self, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = train.build
        built = []

        def build(*arguments: Any) -> nn.Module:
            built.append(whole(*arguments))
            return Explodes(built[-1]) if len(built) == 2 else built[-1]  # the first is the check before work

        monkeypatch.setattr(train, "build", build)
        assert study(out) == 1
        lines = capsys.readouterr()
        failure = "step 15, arm none: the task loss is nan; a lower learning rate may help"
        assert lines.err.splitlines()[-1] == f"train.py: failed: lenet/none/seed-0: {failure}"
        results = {path.parts[-3]: json.loads(path.read_text()) for path in out.rglob("result.json")}
        assert (results["none"]["failure"], results["mi"]["failure"]) == (failure, None)

    def test_an_error_in_a_run_leaves_the_others(
        self, out: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        whole = job.perform

        def perform(spec: Any, *arguments: Any) -> None:
            if spec.arm == "none":
                raise RuntimeError("out of memory")
            whole(spec, *arguments)

        monkeypatch.setattr(local, "perform", perform)
        assert study(out) == 1
        captured = capsys.readouterr()
        assert "lenet/none/seed-0: RuntimeError: out of memory (1/2)" in captured.err
        assert captured.err.splitlines()[-1].endswith("failed: lenet/none/seed-0: RuntimeError: out of memory")
        assert [path.parts[-3] for path in out.rglob("result.json")] == ["mi"]
        monkeypatch.undo()
        assert study(out) == 0


class TestProgress:
    def test_lines(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert study(out) == 0
        captured = capsys.readouterr()
        first, second, third = captured.err.splitlines()
        assert first == "0/2 runs finished"
        assert second == "lenet/none/seed-0: finished (1/2)"
        assert third == "lenet/mi/seed-0: finished (2/2)"
        assert "report: " in captured.out

    def test_bars(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert study(out, "--progress", "bars") == 0
        assert "runs" in capsys.readouterr().err

    def test_json(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert study(out, "--progress", "json") == 0
        captured = capsys.readouterr()
        assert captured.err == ""
        events = [json.loads(line) for line in captured.out.splitlines()]
        assert events[0] == {"event": "study", "runs": 2, "finished": 0}
        kinds = ["start", "step", "step", "step", "finish"]
        assert [event["event"] for event in events[1:]] == kinds * 2
        assert [event["step"] for event in events if event["event"] == "step"] == [0, 10, 20] * 2

    def test_quiet(self, out: Path, capsys: pytest.CaptureFixture[str]) -> None:
        assert study(out, "--quiet") == 0
        assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("number", "workers"), [(signal.SIGINT, 1), pytest.param(signal.SIGTERM, 2, marks=pytest.mark.slow)]
)
def test_a_signal_saves_and_stops(
    out: Path, capsys: pytest.CaptureFixture[str], number: signal.Signals, workers: int
) -> None:
    def send() -> None:
        deadline = time.monotonic() + 200
        while len(list(out.rglob("checkpoint.pt"))) < workers and time.monotonic() < deadline:
            time.sleep(0.02)
        os.kill(os.getpid(), number)

    before = signal.getsignal(signal.SIGINT)  # ignored, in a shell's background
    sender = threading.Thread(target=send)
    sender.start()
    endless = ["--steps", "1000000", "--checkpoint-seconds", "0.01", "--workers", str(workers)]
    assert study(out, *endless) == 128 + number
    sender.join()
    last = f"train.py: stopped by {number.name}, its state saved: the same command continues"
    captured = capsys.readouterr()
    assert captured.err.splitlines()[-1] == last
    assert "Traceback" not in captured.err
    assert len(list(out.rglob("checkpoint.pt"))) == workers
    assert signal.getsignal(signal.SIGINT) is before
