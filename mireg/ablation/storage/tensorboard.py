"""TensorBoard: one directory per run, the same tags in each, so that arms overlay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from mireg.ablation.arms import estimator_of
from mireg.ablation.study.config import RunSpec

if TYPE_CHECKING:  # matplotlib is slow to import: only the drawing functions import it
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DRAWING_SHARE = 0.01
"""Maximum share of a run's time for drawing figures during training; the last ones are drawn after its last step."""

DRAWING_SECONDS = 0.5
"""Seconds reserved for the next drawing, so that short runs draw only at their end."""


class Tracker:
    """Writes the curves, figures, configuration and outcome of one run.

    Args:
        folder: folder of the run; event files of an earlier, interrupted attempt are kept.
        spec: specification of the run.
        resumed_at: step of the checkpoint from which the run continues, None without one; what an earlier attempt wrote
            after it is discarded.
    """

    def __init__(self, folder: Path, spec: RunSpec, resumed_at: int | None) -> None:
        self._spec = spec
        self._name = f"{spec.cell.name}, arm {spec.arm}, seed {spec.seed}"
        self._metric = spec.cell.measured
        self._points: list[dict[str, Any]] = []
        self._began = time.monotonic()
        self._drawing = 0.0  # seconds spent on figures
        # The point at the checkpoint's own step was logged, and flushed, before the checkpoint was written.
        purged_from = 0 if resumed_at is None else resumed_at + 1
        self._writer = SummaryWriter(str(folder), purge_step=purged_from, flush_secs=10)
        if resumed_at is None:
            self._writer.add_text("configuration", as_table(settings_of(spec)))

    def log(self, point: dict[str, Any]) -> None:
        """Write one point of the run's curve, see :func:`mireg.ablation.training.loop.train`."""
        scalars = {
            f"validation/{self._metric.name}": point[self._metric.validation],
            "train/loss": point.get("loss"),
            "train/step_ms": point["step_ms"],
            "term/share_of_loss": point.get("term_share"),
            **point.get("diagnostics", {}),
        }
        if "plane" in point:
            scalars["information/last_layer_about_target"] = point["plane"]["target"][-1]
            scalars["information/last_layer_about_input"] = point["plane"]["input"][-1]
        for index, (pair, nats) in enumerate(point.get("mi", {}).items()):
            # Numbered, so that the page lists pairs from the input to the output.
            scalars[f"mi_nats/{index:03d}_{pair}"] = nats
        scalars |= {f"rewarded/{key}": nats for key, nats in point.get("rewarded", {}).items()}
        self._add_scalars(scalars, point["step"])
        self._points.append(point)
        if self._drawing + DRAWING_SECONDS < DRAWING_SHARE * (time.monotonic() - self._began):
            began = time.monotonic()
            self._draw(self._points)
            self._drawing += time.monotonic() - began

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Write what a user's own loop logs beside the metric."""
        self._add_scalars({f"logged/{name}": number for name, number in numbers.items()}, step)

    def flush(self) -> None:
        """Write the logged values to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()

    def finish(self, result: dict[str, Any]) -> None:
        """Write the last figures.

        Args:
            result: result of the run, see :func:`mireg.ablation.training.loop.train`.
        """
        self._draw(result["curve"])

    def _draw(self, curve: Sequence[dict[str, Any]]) -> None:
        if len(curve) < 2 or not all(point.get("mi") for point in curve):  # neither figure has anything to compare
            return
        step = curve[-1]["step"]
        self._writer.add_figure("mi/by_pair_and_step", draw_heat_map(curve, self._name), step)
        self._writer.add_figure("mi/flow_from_input_to_output", draw_flow(curve, self._name), step)

    def _add_scalars(self, scalars: Mapping[str, float | None], step: int) -> None:
        # One event for all of them costs a tenth of calling add_scalar() for each.
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items() if v is not None]
        writer: Any = self._writer.file_writer
        writer.add_summary(Summary(value=values), step)


def settings_of(spec: RunSpec) -> dict[str, Any]:
    """Give the settings of a run by name, without those that its arm does not use."""
    settings: dict[str, Any] = {"arm": spec.arm, "seed": spec.seed, **spec.as_dict()["cell"], "lr": spec.lr or None}
    settings["model_options"] = ", ".join(f"{key}={value}" for key, value in spec.cell.model_options.items())
    if estimator_of(spec.arm):
        settings |= {f"term {key}": value for key, value in spec.as_dict()["term"].items()}
    return {key: value for key, value in settings.items() if key not in ("arm_lr", "arms", "seeds")}


def as_table(settings: Mapping[str, Any]) -> str:
    """Settings as a table in Markdown, without those that are unset."""
    lines = [f"| {key.replace('_', ' ')} | {value} |" for key, value in settings.items() if value not in (None, (), "")]
    return "\n".join(["| setting | value |", "|---|---|", *lines])


def draw_heat_map(curve: Sequence[dict[str, Any]], name: str) -> Figure:
    """Draw the MI of each successive pair (rows, from the input down) by step, titled with the run's name."""
    from matplotlib.figure import Figure

    pairs = min((list(point["mi"]) for point in curve), key=len)  # an estimate that is not finite is missing
    figure = Figure(figsize=(5.5, max(2.6, 0.8 + 0.2 * min(len(pairs), 40))), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    nats = np.array([[point["mi"].get(pair, np.nan) for pair in pairs] for point in curve]).T
    steps = [point["step"] for point in curve]
    mesh = axes.pcolormesh(steps, np.arange(len(pairs)), nats, shading="nearest", vmin=0, cmap="viridis")
    by_doubling(axes, steps)
    axes.invert_yaxis()
    if len(pairs) <= 40:
        axes.set_yticks(range(len(pairs)), pairs, fontsize=8)
    axes.set(xlabel="training step", title=f"MI between successive layers\n{name}")
    figure.colorbar(mesh, label="nats")
    return figure


def by_doubling(axes: Axes, steps: Sequence[int]) -> None:
    """Give every doubling of the steps the same width, so that the first steps, when most happens, are visible."""
    first = max(1, steps[1] - steps[0])
    ticks = [step for step in (first * 2**power for power in range(0, 40, 2)) if step <= steps[-1]]
    axes.set_xscale("symlog", base=2, linthresh=first)
    axes.set_xticks([steps[0], *ticks], [f"{step:,}" for step in (steps[0], *ticks)])
    axes.minorticks_off()


def draw_flow(curve: Sequence[dict[str, Any]], name: str, lines: int = 6) -> Figure:
    """Draw the MI along the network, from input to output, at a few steps, titled with the run's name.

    Later is lighter, as in the heat map and the information plane.
    """
    from matplotlib.figure import Figure

    from mireg.ablation.storage.plane import step_colour

    figure = Figure(figsize=(5.5, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    chosen = np.unique(np.geomspace(1, len(curve), lines).round().astype(int) - 1)
    for place, index in enumerate(chosen):
        nats = list(curve[index]["mi"].values())
        label = f"step {curve[index]['step']:,}"
        colour = step_colour(place, len(chosen))
        axes.plot(range(1, len(nats) + 1), nats, marker=".", color=colour, label=label)
    axes.set(xlabel="successive pair, from the input", ylabel="nats", title=f"Information flow\n{name}")
    axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))
    axes.grid(alpha=0.25)
    figure.legend(loc="outside right center", frameon=False, fontsize=8)
    return figure


class NoTracker:
    """Replaces the tracker if another process writes the curves."""

    def log(self, point: dict[str, Any]) -> None:
        """Do nothing."""

    def log_numbers(self, numbers: Mapping[str, float], step: int) -> None:
        """Do nothing."""

    def finish(self, result: dict[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
