"""Treat SIGINT and SIGTERM as a request to stop at the next step."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Stop:
    """Says whether to stop when called; ``signal`` is the number of the received signal, or None."""

    signal: int | None = None

    def __call__(self) -> bool:
        return self.signal is not None


@contextmanager
def graceful(*numbers: signal.Signals) -> Iterator[Stop]:
    """Record these signals instead of terminating; a second signal terminates as usual."""
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
