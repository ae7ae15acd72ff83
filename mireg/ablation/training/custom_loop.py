"""The object that a custom training loop receives."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.tensorboard import SummaryWriter

from mireg.ablation.arms import ARMS, BASELINE, LossTerm, Term
from mireg.ablation.errors import Stopped
from mireg.ablation.events import EventHandler
from mireg.ablation.storage.tensorboard import as_table
from mireg.ablation.study.metric import Metric
from mireg.ablation.training.window import clock


class Broke(Exception):  # noqa: N818  # an outcome of a run, not a program error
    """The metric of a run is not finite."""


class Run:
    """One run of a custom training loop, with one arm and one seed.

    Attributes:
        arm: name of the arm.
        seed: seed for random number generators that the loop creates itself.
        device: the device to train on.
    """

    def __init__(
        self,
        arm: str,
        seed: int,
        device: torch.device,
        metric: Metric,
        target: float | None,
        folder: Path,
        tell: EventHandler,
        stop: Callable[[], bool],
    ) -> None:
        self.arm = arm
        self.seed = seed
        self.device = device
        self.curve: list[dict[str, Any]] = []
        self._metric = metric
        self._tell = tell
        self._stop = stop
        self._path = "/".join(folder.parts[-3:])
        self._terms: list[LossTerm] = []
        self._writer = SummaryWriter(str(folder), flush_secs=10)
        settings = {"arm": arm, "seed": seed, "metric": metric.name, "mode": metric.mode, "target": target}
        self._writer.add_text("configuration", as_table({**settings, "device": device}))
        self._seconds = 0.0
        self._began = clock(device)

    def wrap(self, network: nn.Module) -> nn.Module:
        """Return the network to train: unchanged in arm ``none``, wrapped as by :func:`mireg.wrap` in all others.

        Args:
            network: the network; a second one adds its own term to :meth:`mi_loss`.
        """
        term = ARMS[self.arm].term(network, Term(), torch.empty(0))
        self._terms.append(term)
        return term.model

    def mi_loss(self, target: Tensor | None = None) -> Tensor:
        """Compute the term to add to the loss after each training forward pass; 0 in arm ``none``.

        Args:
            target: the batch's target, as for ``model.mi_loss``.

        Returns:
            0-dim tensor.

        Raises:
            RuntimeError: if no network was wrapped.
        """
        if not self._terms:
            raise RuntimeError("run.mi_loss() came before run.wrap(network): train what run.wrap returns")
        total = torch.zeros((), device=self.device)
        if self.arm != BASELINE:
            for term in self._terms:
                added = term(total, target)
                total = total if added is None else total + added
        return total

    def log(self, step: int, **numbers: float) -> None:
        """Write numbers to TensorBoard; the metric, if given, becomes a point of the run's curve.

        The time spent here is not counted.

        Args:
            step: training steps so far; it must increase from point to point.
            **numbers: numbers by name. The one with the metric's name is compared.

        Raises:
            ValueError: if the step does not increase.
        """
        now = clock(self.device)
        self._seconds += now - self._began
        name = self._metric.name
        for key, number in numbers.items():
            tag = f"validation/{key}" if key == name else f"logged/{key}"
            self._writer.add_scalar(tag, float(number), step)
        if name in numbers:
            self._add_point(step, float(numbers[name]))
        if self._stop():
            raise Stopped(self._path)
        self._began = clock(self.device)

    def _add_point(self, step: int, value: float) -> None:
        last = self.curve[-1] if self.curve else {"step": 0, "seconds": 0.0}
        if self.curve and step <= last["step"]:
            raise ValueError(f"run.log({step}, ...) came after run.log({last['step']}, ...): steps must grow")
        if not math.isfinite(value):
            raise Broke(f"step {step}, arm {self.arm}: {self._metric.name} is {value}; a lower learning rate may help")
        nats = {key: x.item() for term in self._terms for key, x in term.values().items() if math.isfinite(x.item())}
        for index, (key, x) in enumerate(nats.items()):
            self._writer.add_scalar(f"mi_nats/{index:03d}_{key}", x, step)
        taken = step - last["step"]
        point = {
            "step": step,
            "seconds": round(self._seconds, 4),
            self._metric.validation: value,
            "step_ms": round(1000 * (self._seconds - last["seconds"]) / taken, 3) if taken else None,
            "mi": nats,
        }
        self.curve.append(point)
        self._tell({"event": "step", "run": self._path, "steps": None, **point})

    @property
    def verdict(self) -> str:
        """Whether the term is active, on which layers, and why; empty if the arm has no term."""
        return self._terms[-1].verdict if self._terms else ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()
