"""A lock that admits one process at a time to a folder."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

from mireg.ablation.errors import UserError
from mireg.ablation.storage.files import WriteError

LOCK = "lock"
"""The file in the folder that is locked; its text names the process that locked it last."""


@contextmanager
def locked(folder: Path, patience: float = 0.0) -> Iterator[None]:
    """Hold a folder, created if necessary. The system lets go of it whenever the process ends.

    Another owner is waited for, with the ``patience`` of so many seconds.

    Raises:
        UserError: if another process still holds it; names that process.
        WriteError: with the path, if the folder cannot be written.
    """
    path = folder / LOCK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = FileLock(path, thread_local=False)
        lock.acquire(timeout=patience)
        with suppress(PermissionError):  # Windows lets nobody write to or read from a locked file
            path.write_text(f"process {os.getpid()} on {platform.node()}")
    except Timeout:
        owner = "another process"
        with suppress(PermissionError):
            owner = path.read_text() or owner
        raise UserError(f"{folder} is in use by {owner}: wait for it, stop it, or give another --out") from None
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path)) from error
    try:
        yield
    finally:
        lock.release()
