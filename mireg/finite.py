"""Check values without making the host wait for the device."""

from __future__ import annotations

import torch
from torch import Tensor


class FiniteWatch:
    """Reports which entries of a vector are not finite, as soon as the host knows.

    On the CPU this is immediate; on another device the entries are copied in the background and checked in a later
    call.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.Event] | None = None

    def __call__(self, values: Tensor) -> list[int]:
        """Indices of the entries that are not finite, in ``values`` or in an earlier vector whose copy has arrived."""
        if values.device.type == "cpu":
            return _broken(values)
        if self._pending is None:
            host = values.detach().to("cpu", non_blocking=True)
            event = torch.Event(values.device)
            event.record()
            self._pending = host, event
        elif self._pending[1].query():
            host, self._pending = self._pending[0], None
            return _broken(host)
        return []

    def __getstate__(self) -> dict[str, None]:
        return {"_pending": None}


def _broken(values: Tensor) -> list[int]:
    return values.isfinite().logical_not().nonzero().flatten().tolist()
