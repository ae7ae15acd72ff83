"""Freed memory, which an allocator keeps for the next step or returns to the system."""

from __future__ import annotations

import torch


def keep_freed_memory() -> None:
    """Let glibc's malloc keep up to 60 MB of freed memory instead of returning it to the system.

    Memory that was returned is mapped and zeroed again at the next step, which can take longer than the arithmetic on
    it. malloc raises its limits by itself when a large block is freed (mallopt(3), M_MMAP_THRESHOLD), so one is
    allocated here and freed at once; no page of it is touched. Other allocators are not affected.
    """
    torch.empty(30 << 20, dtype=torch.uint8)
