"""What a call of a study ran with: its command, commit, machine and packages."""

from __future__ import annotations

import datetime
import os
import platform
import shlex
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import torch

from mireg.ablation.storage.files import read_json, write_json
from mireg.version import __version__


def record_invocation(path: Path, device: str, runs: int) -> None:
    """Add this call to the record of a study: its command, which reproduces what it runs, commit, machine, packages."""
    invocation = {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": shlex.join([sys.executable, *sys.argv]),
        "commit": _commit(),
        "host": platform.node(),
        "device": device,
        "processor": processor(),
        "versions": versions(),
        "runs": runs,
    }
    record = read_json(path)
    record["invocations"].append(invocation)
    write_json(path, record)


def processor() -> str:
    """Model of this machine's processor, its number of cores, and the instructions that PyTorch uses.

    Results are the same to the bit only where these instructions are.
    """
    info = Path("/proc/cpuinfo")  # on Linux, platform only gives x86_64
    lines = info.read_text().splitlines() if info.exists() else []
    models = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    model = models[0] if models else platform.processor()
    return f"{model}, {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}"


def versions() -> dict[str, str]:
    """Versions of Python, of this package and of those on which results depend."""
    packages = {name: version(name) for name in ("torch", "torchvision", "numpy", "scikit-learn")}
    return {"python": platform.python_version(), "mireg": __version__, **packages}


def _commit() -> str | None:
    """The current commit of the source, marked if files have changed; None outside a repository."""
    command = ["git", "--no-optional-locks", "describe", "--always", "--abbrev=40", "--exclude=*", "--dirty"]
    try:
        found = subprocess.run(command, cwd=Path(__file__).parent, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return found.stdout.strip()
