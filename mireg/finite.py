"""Check values without making the host wait for the device."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class FiniteWatch:
    """Reports which entries of a vector are not finite, as soon as the host knows.

    On the CPU this is immediate; on another device the entries are copied in the background and checked in a later
    call.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Sequence[str], torch.Event] | None = None

    def __call__(self, values: Tensor, names: Sequence[str]) -> list[str]:
        """Names of the entries that are not finite, in ``values`` or in an earlier vector whose copy has arrived."""
        if values.device.type == "cpu":
            return _broken(values, names)
        if self._pending is None:
            host = values.detach().to("cpu", non_blocking=True)
            event = torch.Event(values.device)
            event.record()
            self._pending = host, names, event
        elif self._pending[2].query():
            (host, names, _), self._pending = self._pending, None
            return _broken(host, names)
        return []

    def __getstate__(self) -> dict[str, None]:
        return {"_pending": None}


def _broken(values: Tensor, names: Sequence[str]) -> list[str]:
    return [names[index] for index in values.isfinite().logical_not().nonzero().flatten().tolist()]
