"""Run a study in child processes, killing each at a random moment until enough have been killed.

python kill_study.py KILLS FOLDER ARGUMENT...

The children are forked after the slow imports, before anything has run. Every other one is killed
while it starts, the rest once they write checkpoints. The last line printed is the number of
children killed; the exit status is that of the one that was left to finish.
"""

from __future__ import annotations

import importlib
import os
import random
import signal
import sys
import time
from pathlib import Path

import train
from mireg.ablation.data import load


def newest(folder: Path) -> int:
    """When a checkpoint was last written."""
    times = [0]
    for path in folder.rglob("checkpoint.pt"):
        try:
            times.append(path.stat().st_mtime_ns)
        except FileNotFoundError:  # replaced at this moment
            continue
    return max(times)


def wait(child: int) -> int | None:
    """The exit status of a child that has ended."""
    done, status = os.waitpid(child, os.WNOHANG)
    return os.waitstatus_to_exitcode(status) if done else None


def main(kills: int, folder: Path, words: list[str]) -> int:
    moments = random.Random(0)
    killed = 0
    while True:
        before = newest(folder)
        child = os.fork()
        if child == 0:
            os._exit(train.main([*words, "--out", str(folder)]))
        status = None
        while status is None and (killed == kills or (killed % 2 and newest(folder) == before)):
            time.sleep(0.005)
            status = wait(child)
        if status is None:
            time.sleep(moments.uniform(0, 0.2))
            status = wait(child)
        if status is not None:
            print(killed, flush=True)
            return status
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1


if __name__ == "__main__":
    load("digits", Path())  # imports scikit-learn
    importlib.import_module("torch._dynamo")  # as the first optimizer does
    sys.exit(main(int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
