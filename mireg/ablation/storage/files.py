"""Files that are complete or absent, and whose damage is detected."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch


class WriteError(OSError):
    """A file of this package cannot be written; any other OSError during a run is one of the user's code."""


@contextmanager
def writing(path: Path | None = None) -> Iterator[None]:
    """Raise a :class:`WriteError` for an OSError inside, with the path, if there is one."""
    try:
        yield
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(path or error.filename or "") or None) from error


class DamagedError(Exception):
    """A file is damaged: truncated, or changed after it was written."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically: a reader, even after a crash, sees either the old or the new content.

    Raises:
        WriteError: with the path, if the file cannot be written; the old content is kept.
    """
    temporary = path.with_name(f"{path.name}.tmp")
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def write_json(path: Path, value: object) -> None:
    """Write plain values; NaN and infinity raise an error, since JSON has neither."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read plain values; None if the file is missing or not valid JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a dictionary of plain values with its checksum."""
    write_json(path, {**result, "sha256": _digest(result)})


def read_result(path: Path) -> dict[str, Any] | None:
    """Read a file written by :func:`write_result`; None if the file is missing.

    Raises:
        DamagedError: if it is not valid JSON, or its checksum is wrong.
    """
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or result.pop("sha256", None) not in (None, _digest(result)):
        raise DamagedError(f"{path} is damaged")
    return result


def write_tensors(path: Path, state: object) -> str:
    """Save tensors and plain values for ``torch.load``, and return the file's SHA-256."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    write_bytes(path, buffer.getvalue())
    return hashlib.sha256(buffer.getvalue()).hexdigest()


def read_tensors(path: Path, device: torch.device) -> Any:
    """Load a file of :func:`write_tensors`, without running code in it: None if missing, a DamagedError if damaged."""
    if not path.exists():
        return None
    data = io.BytesIO(path.read_bytes())
    try:
        return torch.load(data, map_location=device, weights_only=True)
    except (RuntimeError, OSError, EOFError, ValueError, LookupError, pickle.UnpicklingError) as error:
        raise DamagedError(f"{path} is damaged") from error


def is_plain(state: object) -> bool:
    """Whether :func:`read_tensors` would load a state: it holds tensors and plain values, and no NumPy array."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    try:
        torch.load(buffer, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError:
        return False
    return True


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
