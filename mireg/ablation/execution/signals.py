"""SIGINT and SIGTERM as a request to stop at the next step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Whether to stop: call it. ``signal`` is the number of the signal that asked, or None."""

    def __init__(self) -> None:
        self.signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None


@contextmanager
def graceful(*numbers: signal.Signals) -> Iterator[Stop]:
    """Note the signals instead of dying of them; a second one kills as usual.

    Args:
        numbers: signals to note.
    """
    stop = Stop()

    def handle(number: int, frame: FrameType | None) -> None:
        if stop():
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        stop.signal = number

    before = {number: signal.signal(number, handle) for number in numbers}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
