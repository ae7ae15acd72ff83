"""Files that are whole or absent, and that show when they have been damaged since."""

from __future__ import annotations

import hashlib
import io
import json
import os
from pathlib import Path
from typing import Any

import torch


class DamagedError(Exception):
    """A file is not what was written: cut short, or changed since."""


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file so that a reader, or a crash at any moment, sees the old content or the new.

    Raises:
        OSError: naming the path, if the file cannot be written; the old content is still there.
    """
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync_folder(folder: Path) -> None:
    """Make renames in a folder outlast a power cut."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_json(path: Path, value: object) -> None:
    """Write plain values; NaN and infinity are refused, since JSON has neither."""
    write_bytes(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())


def read_json(path: Path) -> Any:
    """Read plain values; None where the file is missing or no longer JSON."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def write_result(path: Path, result: dict[str, Any]) -> None:
    """Write a dictionary of plain values together with its checksum."""
    write_json(path, {**result, "sha256": _digest(result)})


def read_result(path: Path) -> dict[str, Any] | None:
    """Read what :func:`write_result` wrote; None where the file is missing.

    Raises:
        DamagedError: if it is not JSON any more, or its checksum is another.
    """
    if not path.exists():
        return None
    result = read_json(path)
    if not isinstance(result, dict) or result.pop("sha256", None) not in (None, _digest(result)):
        raise DamagedError(f"{path} is damaged")
    return result


def write_tensors(path: Path, state: object) -> str:
    """Save tensors and plain values for ``torch.load``, and return the file's SHA-256."""
    data = _saved(state)
    write_bytes(path, data)
    return hashlib.sha256(data).hexdigest()


def write_sealed(path: Path, state: object) -> None:
    """Save tensors and plain values behind their checksum, for :func:`read_sealed`."""
    data = _saved(state)
    write_bytes(path, hashlib.sha256(data).digest() + data)


def read_sealed(path: Path, device: torch.device) -> Any:
    """Load what :func:`write_sealed` saved, and nothing that could run code.

    Raises:
        FileNotFoundError: if there is no such file.
        DamagedError: if its content does not have its checksum.
    """
    data = path.read_bytes()
    if hashlib.sha256(data[32:]).digest() != data[:32]:
        raise DamagedError(f"{path} is damaged")
    return torch.load(io.BytesIO(data[32:]), map_location=device, weights_only=True)


def _saved(state: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _digest(value: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, allow_nan=False).encode()).hexdigest()
