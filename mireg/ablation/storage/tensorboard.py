"""TensorBoard: one directory per run, the same tags in each, so that arms overlay."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from mireg.ablation.arms import estimator_of
from mireg.ablation.storage.plane import draw_planes, has_plane
from mireg.ablation.study.config import RunSpec
from mireg.ablation.study.metric import Metric, to_target

if TYPE_CHECKING:  # matplotlib is slow to import: only the drawing functions import it
    from matplotlib.figure import Figure

DRAWING_SHARE = 0.01
"""Maximum share of a run's time for drawing figures during training; the last ones are drawn after its last step."""

DRAWING_SECONDS = 0.5
"""Seconds reserved for the next drawing, so that short runs draw only at their end."""

OVER_SEEDS = "all-seeds"
"""Folder next to those of the seeds, with the median and range over seeds."""


def layout(metric: Metric) -> dict[str, Any]:
    """Layout of the Custom Scalars page."""
    name = metric.name
    return {
        "With and without": {
            f"validation {name}: median over seeds, band from the lowest to the highest": [
                "Margin",
                [f"over_seeds/{name}", f"over_seeds/{name}_lowest", f"over_seeds/{name}_highest"],
            ],
            f"validation {name} of every run": ["Multiline", [f"^validation/{name}$"]],
        },
        "Mutual information": {
            "weakest link: median over seeds of the smallest MI of a pair, in nats": [
                "Margin",
                ["over_seeds/weakest_mi", "over_seeds/weakest_mi_lowest", "over_seeds/weakest_mi_highest"],
            ],
        },
    }


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
            self._writer.add_custom_scalars(layout(self._metric))

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
        for index, (pair, nats) in enumerate(point["mi"].items()):
            # Numbered, so that the page lists pairs from the input to the output.
            scalars[f"mi_nats/{index:03d}_{pair}"] = nats
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
        """Write the last figures and the row of the HParams page.

        Args:
            result: result of the run, see :func:`mireg.ablation.training.loop.train`.
        """
        curve = result["curve"]
        self._draw(curve)
        reached = to_target(curve, self._spec.cell.target, self._metric) or {}
        outcome = {
            "result/steps_to_target": reached.get("step"),
            "result/seconds_to_target": reached.get("seconds"),
            f"result/{self._metric.final}": result[self._metric.final],
            "result/seconds": result["seconds"],
        }
        self._add_scalars(outcome, curve[-1]["step"])
        # add_hparams() would open another run directory, and the page would show each run twice.
        for summary in hparams(self._hparams(), outcome):
            self._file().add_summary(summary)

    def _hparams(self) -> dict[str, Any]:
        spec, cell = self._spec, self._spec.cell
        estimator = estimator_of(spec.arm)
        return {
            "arm": spec.arm,
            "cell": cell.name,
            "estimator": estimator or "none",
            "weight": spec.term.weight if estimator else 0.0,
            "lr": spec.lr,
            "seed": spec.seed,
            **{name: int(value) for name, value in cell.model_options.items() if name == "depth"},
        }

    def _draw(self, curve: Sequence[dict[str, Any]]) -> None:
        if len(curve) < 2 or not curve[0]["mi"]:  # neither figure has anything to compare
            return
        step = curve[-1]["step"]
        self._writer.add_figure("mi/by_pair_and_step", draw_heat_map(curve, self._name), step)
        self._writer.add_figure("mi/flow_from_input_to_output", draw_flow(curve, self._name), step)
        if has_plane(curve):
            self._writer.add_figure("information_plane/layers_by_step", draw_planes({self._name: curve}), step)

    def _add_scalars(self, scalars: Mapping[str, float | None], step: int) -> None:
        # One event for all of them costs a tenth of calling add_scalar() for each.
        values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items() if v is not None]
        self._file().add_summary(Summary(value=values), step)

    def _file(self) -> Any:
        return self._writer.file_writer


def write_spread(folder: Path, curves: Sequence[Sequence[dict[str, Any]]], metric: Metric) -> None:
    """Write the median and the range over seeds of one arm's curves, for the bands of the Custom Scalars page.

    Args:
        folder: folder of the arm; the files of an earlier call are replaced.
        curves: curves of its runs; steps that not all of them have are left out.
        metric: metric of the cell.
    """
    target = folder / OVER_SEEDS
    for old in target.glob("events.*"):
        old.unlink()
    with SummaryWriter(str(target)) as writer:
        for points in zip(*curves, strict=False):
            spread = {f"over_seeds/{metric.name}": [point[metric.validation] for point in points]}
            if all(point.get("mi") for point in points):  # runs of an archive have none
                spread["over_seeds/weakest_mi"] = [min(point["mi"].values()) for point in points]
            for tag, values in spread.items():
                writer.add_scalar(tag, np.median(values), points[0]["step"])
                writer.add_scalar(f"{tag}_lowest", min(values), points[0]["step"])
                writer.add_scalar(f"{tag}_highest", max(values), points[0]["step"])


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

    pairs = list(curve[0]["mi"])
    figure = Figure(figsize=(5, max(2.6, 0.8 + 0.2 * min(len(pairs), 40))), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    nats = np.array([list(point["mi"].values()) for point in curve]).T
    steps = [point["step"] for point in curve]
    mesh = axes.pcolormesh(steps, np.arange(len(pairs)), nats, shading="nearest", vmin=0, cmap="viridis")
    axes.invert_yaxis()
    if len(pairs) <= 40:
        axes.set_yticks(range(len(pairs)), pairs, fontsize=8)
    axes.set(xlabel="training step", title=f"MI between successive layers\n{name}")
    figure.colorbar(mesh, label="nats")
    return figure


def draw_flow(curve: Sequence[dict[str, Any]], name: str, lines: int = 6) -> Figure:
    """Draw the MI along the network, from input to output, at a few steps, titled with the run's name."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    figure = Figure(figsize=(5, 3), dpi=120, layout="constrained")
    axes = figure.add_subplot()
    chosen = np.unique(np.linspace(0, len(curve) - 1, lines).astype(int))
    colours = np.linspace(0.85, 0, len(chosen))
    for index, colour in zip(chosen, colours, strict=True):
        nats = list(curve[index]["mi"].values())
        label = f"step {curve[index]['step']}"
        axes.plot(range(1, len(nats) + 1), nats, marker=".", color=colormaps["viridis"](colour), label=label)
    axes.set(xlabel="successive pair, from the input", ylabel="nats", title=f"Information flow\n{name}")
    axes.set_ylim(bottom=min(0.0, axes.dataLim.ymin))
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, fontsize=8)
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
