"""Cost of the term: step time and memory with and without it, side by side in one process.

python -m eval.cost --json FILE
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from statistics import mean, median
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import nn
from torch.nn.functional import cross_entropy

import mireg
import models
from mireg import estimators
from mireg.ablation.storage.invocation import processor
from mireg.schedules import Schedule
from mireg.timing import active_steps, ratio, step_times
from mireg.wrapper import DEFAULT_WEIGHT

TRAINING = 2000
"""Number of training steps over which the cost is averaged."""

ESTIMATORS = ("usable", "kde", "renyi", "cka", "binning")

PHASES = ("none", "off", "used")
"""Without the wrapper; with the wrapper at weight 0; with the term."""

MOMENTS = 8
"""Moments of the schedule at which a step that uses the term is timed: at each, other numbers of layers are read."""

ACTIVE = ("none", "used")
"""Phases needed for the cost of steps that use the term."""


@dataclass(frozen=True)
class Setting:
    """A network and the batches it is trained on."""

    name: str
    model: str
    input_shape: tuple[int, ...] = (3, 32, 32)
    options: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 128
    estimator: str = "usable"
    samples: int = 128
    compiled: bool = False


SETTINGS = (
    Setting("MLP 30x128", "mlp", (1, 28, 28), {"depth": 30, "width": 128}),
    Setting("CNN 14x16", "cnn", (1, 28, 28), {"batchnorm": True}),
    Setting("ViT 4x64", "vit"),
    Setting("ResNet-18", "resnet18"),
)

GROWTH: dict[str, tuple[str, Sequence[int]]] = {
    "layers": ("depth", (5, 10, 20, 40)),
    "units a layer": ("width", (64, 128, 256, 512)),
    "batch": ("batch_size", (64, 128, 256, 512)),
    "rows of the estimate": ("samples", (16, 32, 64, 128)),
}
"""Settings varied one at a time on the MLP 30x128."""


class Training:
    """A network trained on random batches, step by step; wrapped if a weight is given."""

    def __init__(self, setting: Setting, device: torch.device, weight: float | Schedule | None) -> None:
        torch.manual_seed(0)
        network = models.build(setting.model, setting.options, setting.input_shape, 10).to(device)
        self.device = device
        self.model: nn.Module = network
        if weight is not None:
            self.model = mireg.wrap(network, estimator=setting.estimator, weight=weight, samples=setting.samples)
        self.forward = torch.compile(self.model) if setting.compiled else self.model
        self.optimizer = torch.optim.Adam(network.parameters(), lr=1e-4)
        self.images = torch.randn(setting.batch_size, *setting.input_shape, device=device)
        self.labels = torch.randint(10, (setting.batch_size,), device=device)

    def step(self) -> None:
        """Do one training step."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.device.type == "cuda"):
            loss = cross_entropy(self.forward(self.images), self.labels)
            if isinstance(self.model, mireg.MIRegularized):
                loss = loss + self.model.mi_loss(self.labels)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()

    def step_at(self, step: int) -> None:
        """Do the training step that uses the term as it is at this step of its schedule."""
        assert isinstance(self.model, mireg.MIRegularized)
        self.model.regularizer.start_at(step)
        self.step()


def phase_times(
    setting: Setting, device: torch.device, seconds: float, phases: Sequence[str] = PHASES
) -> dict[str, Any]:
    """Measure the median step time of each phase, and its ratio to no wrapper, from interleaved steps.

    Args:
        setting: the network and batches.
        device: the device to train on.
        seconds: time to spend, with at least 2 rounds.
        phases: phases to time; ``"none"`` must be among them.

    Returns:
        ``ms`` by phase, ``ratio`` by phase (median over rounds of ratios within a round), ``rounds``.
    """
    trainings = {"none": None, "off": 0.0, "used": DEFAULT_WEIGHT}
    made = {phase: Training(setting, device, trainings[phase]) for phase in phases}
    steps: dict[str, Callable[[], object]] = {phase: made[phase].step for phase in phases if phase != "used"}
    moments = [f"used at {at}" for at in active_steps(DEFAULT_WEIGHT, MOMENTS)] if "used" in phases else []
    steps |= {name: partial(made["used"].step_at, int(name.split()[-1])) for name in moments}
    times = step_times(steps, device, rounds=2, seconds=seconds)
    ms = {name: median(values) for name, values in times.items()}
    ratios = {name: ratio(values, times["none"]) for name, values in times.items()}
    if moments:  # the layers' turns change over the schedule
        ms["used"], ratios["used"] = (mean(each[name] for name in moments) for each in (ms, ratios))
    return {
        "ms": {phase: ms[phase] for phase in phases},
        "ratio": {phase: ratios[phase] for phase in phases},
        "rounds": len(times["none"]),
    }


def averages(ratio: dict[str, float]) -> dict[str, float]:
    """Mean ratio over the steps that use the term, and over a whole training run with ``mireg.wrap(model)``.

    Args:
        ratio: step time of each phase over that without the wrapper.
    """
    used = sum(DEFAULT_WEIGHT(step) != 0 for step in range(TRAINING))
    training = (used * ratio["used"] + (TRAINING - used) * ratio["off"]) / TRAINING
    return {"active": ratio["used"], "training": training}


def peak_memory(setting: Setting, device: torch.device) -> dict[str, float]:
    """Peak memory in MB of a training process, without the term and with it.

    On a GPU, the memory allocated by PyTorch; on a CPU, the resident memory of the process, including its libraries.
    """
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for name, weight in (("none", None), ("used", DEFAULT_WEIGHT)):
        receiver, sender = context.Pipe(duplex=False)
        process = context.Process(target=_peak, args=(sender, setting, device, weight))
        process.start()
        sender.close()  # so that a process that dies ends the wait
        peaks[name] = receiver.recv()
        process.join()
    return peaks


def _peak(sender: Any, setting: Setting, device: torch.device, weight: Schedule | None) -> None:
    training = Training(setting, device, weight=weight)
    for _ in range(2):  # the optimizer's state exists from the second step on
        training.step()
    if device.type == "cuda":
        sender.send(torch.cuda.max_memory_allocated() / 1e6)
    else:
        # Not getrusage: a new process inherits the peak of the one that started it.
        status = Path("/proc/self/status").read_text()
        sender.send(int(status.partition("VmHWM:")[2].split()[0]) / 1e3)


def growth(device: torch.device, seconds: float) -> dict[str, list[dict[str, float]]]:
    """Milliseconds that the term adds to a step that uses it, for each varied setting."""
    base = SETTINGS[0]
    found: dict[str, list[dict[str, float]]] = {}
    for what, (option, values) in GROWTH.items():
        found[what] = []
        for value in values:
            changes: dict[str, Any] = {option: value}
            if option in ("batch_size", "samples"):
                setting = replace(base, **changes)
            else:
                setting = replace(base, options={**base.options, **changes})
            times = phase_times(setting, device, seconds, ACTIVE)["ms"]
            added = times["used"] - times["none"]
            found[what].append({"value": value, "step_ms": times["none"], "added_ms": added})
    return found


def measure(device: torch.device, seconds: float, report: Callable[[str], None]) -> dict[str, Any]:
    """Measure everything, for about ``seconds`` per network and as much for all the rest."""
    networks = []
    for setting in SETTINGS:
        report(setting.name)
        for compiled in (False, True) if device.type == "cuda" else (False,):
            chosen = replace(setting, compiled=compiled)
            times = phase_times(chosen, device, seconds)
            row = {**asdict(chosen), **times, **averages(times["ratio"]), "peak_mb": peak_memory(chosen, device)}
            networks.append(row)
            report(f"  {row['active']:.3f} while active, {row['training']:.3f} over {TRAINING} steps")
    report("estimators")
    known = [name for name in ESTIMATORS if name in estimators.names()]
    by_estimator = {
        name: phase_times(replace(SETTINGS[0], estimator=name), device, seconds / 10, ACTIVE)["ratio"]["used"]
        for name in known
    }
    report("growth")
    return {
        "machine": {
            "processor": torch.cuda.get_device_name(device) if device.type == "cuda" else processor(),
            "threads": torch.get_num_threads(),
            "load_average": os.getloadavg()[0],
            "torch": torch.__version__,
            "python": platform.python_version(),
        },
        "networks": networks,
        "estimators": by_estimator,
        "growth": growth(device, seconds / 20),
    }


def print_tables(found: dict[str, Any], console: Console) -> None:
    """Print the measurements as tables."""
    machine = found["machine"]
    table = Table(
        title=f"{machine['processor']}, {machine['threads']} threads, load {machine['load_average']:.1f}, "
        f"torch {machine['torch']}"
    )
    columns = ("step, ms", "weight 0", "while active", f"{TRAINING} steps", "MB")
    for column in ("network", *columns):
        table.add_column(column, justify="left" if column == "network" else "right")
    for row in found["networks"]:
        memory = row["peak_mb"]
        table.add_row(
            row["name"] + (" compiled" if row["compiled"] else ""),
            f"{row['ms']['none']:.1f}",
            f"{row['ratio']['off']:.3f}",
            f"{row['active']:.3f}",
            f"{row['training']:.3f}",
            " → ".join(f"{memory[name]:.0f}" for name in ("none", "used")),
        )
    console.print(table)
    for name, active in found["estimators"].items():
        console.print(f"{SETTINGS[0].name}, {name}: {active:.3f} while active", highlight=False)
    for what, points in found["growth"].items():
        text = ", ".join(f"{p['value']:.0f}: {p['added_ms']:.1f} ms of {p['step_ms']:.1f}" for p in points)
        console.print(f"added by {what}: {text}", highlight=False)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m eval.cost", description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="write the measurements to this file")
    parser.add_argument("--seconds", type=float, default=20.0, help="time for each network (default: %(default)s)")
    parser.add_argument("--threads", type=int, help="CPU threads of PyTorch; by default its own choice")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    chosen = parser.parse_args(arguments)
    if chosen.threads:
        torch.set_num_threads(chosen.threads)
    console = Console()
    progress = Console(stderr=True)
    found = measure(torch.device(chosen.device), chosen.seconds, lambda what: progress.print(what, highlight=False))
    print_tables(found, console)
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1))
    return 0


if __name__ == "__main__":
    sys.exit(main())
