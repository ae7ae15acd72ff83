"""Freed memory stays with the process."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys, torch
from mireg.memory import keep_freed_memory
torch.set_num_threads(1)
if "keep" in sys.argv:
    keep_freed_memory()

def step():
    blocks = [torch.zeros(2 << 20, dtype=torch.uint8) for _ in range(8)]

for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc's malloc returns memory at every step")
def test_no_page_is_mapped_twice() -> None:
    faults = {}
    for mode in ("keep", "return"):
        command = [sys.executable, "-c", FAULTS, mode]
        faults[mode] = int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    assert faults["keep"] < 100 < faults["return"]
