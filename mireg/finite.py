"""Check estimates without making the host wait for the device."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

import torch
from torch import Tensor


class FiniteWatch:
    """Warns of estimates that are not finite, as soon as the host knows.

    On the CPU this is immediate; on another device the estimates are copied in the background and checked in a later
    call.
    """

    def __init__(self) -> None:
        self._pending: tuple[Tensor, Sequence[str], torch.Event] | None = None

    def __call__(self, values: Tensor, names: Sequence[str], step: int) -> None:
        """Warn if some of these estimates, or of earlier ones whose copy has arrived, are not finite."""
        if broken := self._broken(values, names):
            warnings.warn(
                f"the MI term is not finite at step {step} or just before, in {', '.join(broken)}: a layer there holds "
                "NaN or infinity, or the estimator broke",
                RuntimeWarning,
                stacklevel=7,  # the line that called mi_loss()
            )

    def _broken(self, values: Tensor, names: Sequence[str]) -> list[str]:
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
