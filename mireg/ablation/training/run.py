"""One run of a training loop, the built-in one or a user's own: its arm, its curve, its checkpoints, its result."""

from __future__ import annotations

import hashlib
import math
import operator
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from mireg.ablation.arms import ARMS, BASELINE, LossTerm, arm
from mireg.ablation.errors import Stopped, UserError, nearest
from mireg.ablation.events import EventHandler, ShouldStop, note
from mireg.ablation.random_state import random_state, seed_everything, set_random_state
from mireg.ablation.storage.changes import plain, refuse_changes, settings
from mireg.ablation.storage.files import DamagedError, is_plain, read_tensors, write_result, write_tensors
from mireg.ablation.storage.tensorboard import Tracker
from mireg.ablation.study.config import RunSpec
from mireg.ablation.study.metric import to_target
from mireg.ablation.training.group import Group

COMPARED = 100
"""Number of batches, from the first, by which arms of a seed are checked to see the same ones."""


class Ended(Exception):  # noqa: N818  # an outcome of a run, not a program error
    """The run is over: a tuning run has reached the goal, or the metric is not finite."""


class Run:
    """One run of a training loop, with one arm and one seed.

    Attributes:
        seed: seed for random number generators that the loop creates itself.
        device: the device to train on.
        curve: the points logged so far.
        seconds: training time so far.
    """

    def __init__(
        self,
        spec: RunSpec,
        folder: Path,
        group: Group,
        *,
        tell: EventHandler,
        stop: ShouldStop,
        checkpoint_seconds: float,
    ) -> None:
        self.spec = spec
        self.group = group
        self.seed = spec.seed
        self.device = group.device
        self.folder = folder
        self.curve: list[dict[str, Any]] = []
        self.seconds = 0.0
        self.outcome: dict[str, Any] = {}  # what the built-in loop adds to the result
        self.weights: dict[str, Tensor] | None = None  # to keep, beside the result
        self.failure: str | None = None
        self.terms: list[LossTerm] = []
        self.tracker = Tracker(folder if group.writes else None, spec.cell.measured)
        self.pairing: dict[str, Any] = {"weights": "", "batches": "", "n_batches": 0}
        self._tell = tell
        self._stop = stop
        self._checkpoint_seconds = checkpoint_seconds
        self._checkpoint = folder / "checkpoint.pt"
        self._read_arm = self._saves = self._started = self._is_plain = False
        self._logged: dict[str, None] = {}  # names beside the metric's
        self._untimed = 0
        self._saved_at = time.monotonic()
        self._began = clock(self.device)

    @property
    def arm(self) -> str:
        """Name of the arm."""
        self._read_arm = True
        return self.spec.arm

    @property
    def lr(self) -> float:
        """The learning rate to train with, if there are any to choose from."""
        if not self.spec.lr:
            raise UserError("run.lr is chosen from compare(..., lrs=(...)), and none are given")
        return self.spec.lr

    @contextmanager
    def untimed(self) -> Iterator[None]:
        """Exclude what happens inside, such as an evaluation, from the run's seconds."""
        if not self._untimed:
            self.seconds += max(0.0, clock(self.device) - self._began)
        self._untimed += 1
        try:
            yield
        finally:
            self._untimed -= 1
            self._began = clock(self.device)

    def wrap(self, network: nn.Module, example: Any = None) -> nn.Module:
        """Return the network to train, as the arm wants it: unchanged in ``none`` and in arms of the loop's own.

        Args:
            network: the network; a second one adds its own term to :meth:`mi_loss`.
            example: the inputs of a batch, a tensor or a tuple, for arms that must see the layers in advance.

        Raises:
            UserError: if the arm needs an example and there is none.
        """
        term = self.attach(network, example)
        self._start(0)
        return term.model

    def attach(self, network: nn.Module, example: Any) -> LossTerm:
        """The arm's term for a network, whose weights are those that the arms of a seed share."""
        parameters = (name.encode() + _bytes(tensor) for name, tensor in network.named_parameters())
        self.pairing["weights"] = _digest(self.pairing["weights"], parameters)
        chosen = arm(self.spec.arm if self._is_known else BASELINE)
        try:
            term = chosen.term(chosen.initialised(network, example), self.spec.term, example)
        except (TypeError, AttributeError) as error:
            if example is not None:
                raise
            raise UserError(
                f"arm {self.spec.arm!r} sees the layers in advance: call run.wrap(network, x), x the inputs of a batch"
            ) from error
        self.terms.append(term)
        return term

    @property
    def _is_known(self) -> bool:
        return self.spec.arm in ARMS or ":" in self.spec.arm

    def mi_loss(self, target: Any = None, *, loss: Tensor | None = None) -> Tensor:
        """Compute the term to add to the loss after each training forward pass; 0 in arm ``none``.

        Args:
            target: the batch's target, as for ``model.mi_loss``.
            loss: the task's loss, for arms that scale with it.

        Returns:
            0-dim tensor.

        Raises:
            RuntimeError: if no network was wrapped.
            UserError: if the arm needs the loss and does not get it.
        """
        if not self.terms:
            raise RuntimeError("run.mi_loss() came before run.wrap(network): train what run.wrap returns")
        self.saw(target)
        total = torch.zeros((), device=self.device)
        for term in self.terms:
            if term.needs_loss and loss is None:
                raise UserError(f"arm {self.spec.arm!r} scales with the loss: call run.mi_loss(y, loss=loss)")
            added = term(total if loss is None else loss, target)
            total = total if added is None else total + added
        return total

    def saw(self, targets: Any) -> None:
        """Remember a batch, by its targets, to check that all arms of a seed see the same ones."""
        if self.pairing["n_batches"] < COMPARED and targets is not None:
            parts = targets if isinstance(targets, tuple | list) else (targets,)
            read = (_bytes(part) if isinstance(part, Tensor) else repr(part).encode() for part in parts)
            self.pairing["batches"] = _digest(self.pairing["batches"], read)
            self.pairing["n_batches"] += 1

    def log(self, step: int, **numbers: float) -> None:
        """Write numbers to TensorBoard; the metric, if given, becomes a point of the run's curve.

        The time spent here is not counted.

        Args:
            step: training steps so far; it must increase from point to point.
            **numbers: numbers by name. The one with the metric's name is compared.

        Raises:
            ValueError: if the step is not a whole number, or does not increase.
            UserError: if an accuracy is given in per cent.
        """
        step = _whole(step)
        with self.untimed():
            self._start(0)
            metric = self.spec.cell.measured
            others = {key: float(number) for key, number in numbers.items() if key != metric.name}
            self._logged |= dict.fromkeys(others)
            if others:
                self.tracker.add({f"logged/{name}": number for name, number in others.items()}, step)
            if metric.name in numbers:
                self._log_metric(step, float(numbers[metric.name]))
            if self._stop() and not self._saves:
                raise Stopped(self.spec.path)

    def _log_metric(self, step: int, value: float) -> None:
        metric = self.spec.cell.measured
        last = self.curve[-1] if self.curve else {"step": 0, "seconds": 0.0}
        if self.curve and step <= last["step"]:
            raise ValueError(f"run.log({step}, ...) came after run.log({last['step']}, ...): steps must grow")
        metric.check(f"{self.spec.path}, step {step}", value)
        if not math.isfinite(value):
            self.failure = f"step {step}, arm {self.spec.arm}: {metric.name} is {value}; a lower learning rate may help"
            raise Ended
        taken = step - last["step"]
        point = {
            "step": step,
            "seconds": round(self.seconds, 4),
            metric.validation: value,
            "step_ms": round(1000 * (self.seconds - last["seconds"]) / taken, 3) if taken else None,
        }
        self.add(point)
        if self.reached:
            raise Ended

    def add(self, point: dict[str, Any]) -> None:
        """Add a point to the curve."""
        if self.spec.arm in ARMS and ARMS[self.spec.arm].estimator:
            read = {key: nats.item() for term in self.terms for key, nats in term.values().items()}
            point["rewarded"] = {key: nats for key, nats in read.items() if math.isfinite(nats)}
        self.curve.append(point)
        self.tracker.log(point)
        self._tell({"event": "step", "run": self.spec.path, "steps": self.spec.cell.steps or None, **point})

    @property
    def reached(self) -> bool:
        """Whether this is a tuning run whose last point is at the goal."""
        cell = self.spec.cell
        return self.spec.tuning and to_target(self.curve[-1:], cell.target, cell.measured) is not None

    def save(self, step: int, **objects: Any) -> None:
        """Write a checkpoint if the last one is old enough, or if the run is asked to stop.

        It holds the random number generators, the curve and the arm's state, too. The time is not counted.

        Args:
            step: training steps so far.
            **objects: what else to restore: anything with ``state_dict()`` and ``load_state_dict()``.

        Raises:
            Stopped: if the run is asked to stop, once the checkpoint is written.
            UserError: if the state of an object could not be restored.
        """
        step = _whole(step)
        with self.untimed():
            self._saves = True
            stopping = self.group.any(self._stop())
            late = time.monotonic() - self._saved_at >= self._checkpoint_seconds
            if self.group.writes and (stopping or late):
                states = {name: thing.state_dict() for name, thing in objects.items()}
                if not self._is_plain:
                    _check_plain(states)
                    self._is_plain = True
                self.tracker.flush()
                write_tensors(
                    self._checkpoint,
                    {
                        "spec": plain(self.spec.as_dict()),
                        "step": step,
                        "seconds": self.seconds,
                        "curve": self.curve,
                        "pairing": self.pairing,
                        "objects": states,
                        "random": random_state(self.device),
                        "terms": [term.state_dict() for term in self.terms],
                    },
                )
                self._saved_at = time.monotonic()
            if stopping:
                raise Stopped(self.spec.path)

    def restore(self, **objects: Any) -> int:
        """Restore what the last checkpoint holds, after :meth:`wrap`, and return its step; 0 if there is none.

        Args:
            **objects: the same names as for :meth:`save`.

        Raises:
            UserError: if the checkpoint is of other settings.
        """
        with self.untimed():
            self._saves = True
            try:
                found = read_tensors(self._checkpoint, self.device)
            except DamagedError as damage:
                self._tell(note(f"{damage}: the run begins again", self.spec.path))
                found = None
            if found is None:
                self._start(0)
                return 0
            refuse_changes(str(self.folder), settings(found["spec"]), settings(self.spec.as_dict()))
            self.seconds, self.curve, self.pairing = found["seconds"], found["curve"], found["pairing"]
            for name, thing in objects.items():
                thing.load_state_dict(found["objects"][name])
            set_random_state(found["random"], self.device)
            for term, state in zip(self.terms, found["terms"], strict=True):
                term.load_state_dict(state)
            step = int(found["step"])
            self.tracker.resumed_at = step
            self._started = False
            self._start(step)
            return step

    def _start(self, step: int) -> None:
        """Tell that the run has begun, unless it may yet be restored."""
        if not self._started and (step or not self._checkpoint.exists() or self._saves):
            self._started = True
            steps = self.spec.cell.steps or None
            self._tell({"event": "start", "run": self.spec.path, "step": step, "steps": steps})

    def write(self) -> None:
        """Write the result.

        Raises:
            UserError: if the metric was never logged, or the arm changed nothing.
            OSError: if a file cannot be written; the last checkpoint is kept.
        """
        spec, metric = self.spec, self.spec.cell.measured
        if not self.curve and not self.failure:
            logged = f", only {', '.join(self._logged)}" if self._logged else ""
            raise UserError(f"{spec.path}: the loop never called run.log(step, {metric.name}=...){logged}")
        if not self._is_known and not self._read_arm:
            raise UserError(
                f"{spec.path}: arm {spec.arm!r} changed nothing{nearest(spec.arm, ARMS)}: it is none of mireg's, and "
                "the loop never read run.arm"
            )
        record = spec.as_dict()
        record["cell"]["steps"] = spec.cell.steps or (self.curve[-1]["step"] if self.curve else 0)
        result = {
            "cell": spec.cell.name,
            "arm": spec.arm,
            "seed": spec.seed,
            "lr": spec.lr or None,
            "device": torch.cuda.get_device_name(self.device) if self.device.type == "cuda" else self.device.type,
            "failure": self.failure,
            "verdict": self.terms[-1].verdict if self.terms else "",
            "seconds": round(self.seconds, 4),
            "final_split": "validation",
            metric.final: self.curve[-1][metric.validation] if self.curve and not spec.tuning else None,
            "pairing": self.pairing,
            **self.outcome,
            "curve": self.curve,
            "spec": record,
        }
        self.tracker.close()
        if self.group.writes:
            if self.weights is not None:
                result["weights_sha256"] = write_tensors(self.folder / "weights.pt", self.weights)
            write_result(self.folder / "result.json", result)
            if self.failure is None:
                self._checkpoint.unlink(missing_ok=True)
        self._tell({"event": "finish", "run": spec.path, "failure": self.failure})


def perform(run: Run, train: Callable[[Run], object]) -> None:
    """Call a training loop once, from the seed's random numbers, and write its result."""
    seed_everything(run.seed)
    try:
        with suppress(Ended):
            train(run)
        with run.untimed():
            run.write()
    finally:
        run.tracker.close()


def _whole(step: Any) -> int:
    """A step as a Python integer, whatever kind of integer it is."""
    try:
        whole = operator.index(step)
    except TypeError:
        whole = -1
    if whole < 0:
        raise ValueError(f"run.log({step!r}, ...): give a whole number, the training steps so far")
    return whole


def _check_plain(states: Mapping[str, Any]) -> None:
    for name, state in states.items():
        if not is_plain(state):
            raise UserError(
                f"run.save({name}=...): its state could not be restored: keep tensors, numbers and texts in it, and "
                "turn NumPy arrays into tensors (torch.as_tensor)"
            )


def _digest(before: str, parts: Iterable[bytes]) -> str:
    return hashlib.sha256(before.encode() + b"".join(parts)).hexdigest()


def _bytes(tensor: Tensor, most: int = 4096) -> bytes:
    """The first values of a tensor, and its shape."""
    values = tensor.detach().flatten()[:most].cpu().contiguous()
    return repr(tuple(tensor.shape)).encode() + values.view(torch.uint8).numpy().tobytes()


def clock(device: torch.device) -> float:
    """Current time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
