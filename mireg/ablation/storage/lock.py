"""A lock that admits one process at a time to a folder."""

from __future__ import annotations

import fcntl
import json
import os
import platform
import time
from pathlib import Path
from types import TracebackType

from mireg.ablation.errors import UserError
from mireg.ablation.storage.files import read_json


class Lock:
    """A context in which no other process holds the lock at the same path.

    The kernel releases the lock whenever the process ends, so the process number or age of a leftover lock
    need not be checked. The file names the owner.

    Args:
        path: path of the lock file.
        patience: seconds to wait for another owner.

    Raises:
        UserError: on entering, if another process still holds the lock; names that process.
    """

    def __init__(self, path: Path, patience: float = 0.0) -> None:
        self.path = path
        self.patience = patience
        self.left_by: str | None = None
        self._file = -1

    def __enter__(self) -> Lock:
        deadline = time.monotonic() + self.patience
        while not self._acquired():
            if time.monotonic() >= deadline:
                raise UserError(
                    f"{self.path.parent} is in use by {_owner(self.path)}: wait for it, stop it, or give another --out"
                )
            time.sleep(0.1)
        if os.fstat(self._file).st_size:  # an owner that exits cleanly removes the file
            self.left_by = _owner(self.path)
            os.ftruncate(self._file, 0)
        os.write(self._file, json.dumps({"pid": os.getpid(), "host": platform.node()}).encode())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.path.unlink(missing_ok=True)
        os.close(self._file)

    def _acquired(self) -> bool:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self.path)) from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.path.exists() and self.path.stat().st_ino == os.fstat(self._file).st_ino:
                return True  # else the previous owner removed the file between the two calls
        except BlockingIOError:
            pass
        os.close(self._file)
        return False


def _owner(path: Path) -> str:
    owner = read_json(path)
    return f"process {owner['pid']} on {owner['host']}" if isinstance(owner, dict) else "another process"
