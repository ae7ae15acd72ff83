"""Statistics of the steps between two evaluations."""

from __future__ import annotations

import time
from typing import Any

import torch
from torch import Tensor


def clock(device: torch.device) -> float:
    """Current time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class Window:
    """Means over the steps between two evaluations."""

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget all steps."""
        self._losses: list[Tensor] = []
        self._shares: list[Tensor] = []
        self._times: list[float] = []

    def add(self, task: Tensor, term: Tensor | None, seconds: float) -> None:
        self._losses.append(task.detach())
        if term is not None:
            size = term.detach().abs()
            # If the network is certain about a whole batch, the task loss is exactly 0, and a decayed term is 0 too.
            self._shares.append(size / (size + task.detach().abs()).clamp_min(torch.finfo(size.dtype).tiny))
        self._times.append(seconds)

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self._losses, "shares": self._shares, "times": self._times}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._losses, self._shares, self._times = state["losses"], state["shares"], state["times"]

    def summary(self) -> dict[str, float | None]:
        """Mean task loss, mean share of the term in the loss (of absolute values), median step time."""

        def mean(values: list[Tensor]) -> float | None:
            return torch.stack(values).mean().item() if values else None

        times = sorted(self._times)
        return {
            "loss": mean(self._losses),
            "term_share": mean(self._shares),
            "step_ms": round(1000 * times[len(times) // 2], 3) if times else None,
        }
