"""The information plane over training: layers as points, steps as colour."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.figure import Figure

Curve = Sequence[Mapping[str, Any]]
"""Points of a run, some of which have ``plane``, see :func:`mireg.ablation.training.loop.evaluate`."""

COLOURS = colormaps["viridis"]


def has_plane(curve: Curve) -> bool:
    """Whether a run measured the plane."""
    return bool(looked_at(curve))


def looked_at(curve: Curve) -> list[Mapping[str, Any]]:
    """The points of a run at which the plane was measured."""
    return [point for point in curve if "plane" in point]


def nats(point: Mapping[str, Any], about: str) -> list[float]:
    """Each layer's information about the ``"input"`` or the ``"target"`` at such a point; NaN if not known."""
    return [float("nan") if value is None else value for value in point["plane"][about]]


def step_colour(index: int, count: int) -> tuple[float, float, float, float]:
    """Colour of the step with this index among ``count`` steps."""
    colour: tuple[float, float, float, float] = COLOURS(
        0.25 + 0.65 * index / max(1, count - 1)
    )  # legible on black, too
    return colour


def fill_planes(figure: Figure, curves: Mapping[str, Curve]) -> None:
    """Draw the plane of one or more runs side by side, on the same axes.

    The layers of a network at one step are connected from the first to the last, which has a larger marker. The input
    itself would lie far to the right; a dashed line shows its information about the target.

    Args:
        figure: the figure to draw into.
        curves: curves with information planes, by title.
    """
    panels = figure.subplots(1, len(curves), sharex=True, sharey=True, squeeze=False)[0]
    steps = sorted({point["step"] for curve in curves.values() for point in looked_at(curve)})
    colour = {step: step_colour(index, len(steps)) for index, step in enumerate(steps)}
    for axes, (title, curve) in zip(panels, curves.items(), strict=True):
        looked = looked_at(curve)
        for point in looked:
            x, y = nats(point, "input"), nats(point, "target")
            axes.plot(x[1:], y[1:], "-", color=colour[point["step"]], linewidth=0.8, alpha=0.6)
            axes.plot(x[1:-1], y[1:-1], "o", color=colour[point["step"]], markersize=3.5)
            axes.plot(x[-1:], y[-1:], "o", color=colour[point["step"]], markersize=8)
        axes.axhline(looked[0]["plane"]["target"][0] or 0.0, color="#888888", linestyle="--", linewidth=1)
        axes.set_title(title, fontsize=10)
        axes.grid(alpha=0.25)
    panels[0].set_ylabel("usable information about the target, nats")
    figure.supxlabel("usable information about the input, nats per dimension", fontsize="medium")
    handles = [
        panels[0].plot([], [], "o", color=colour[step], markersize=6, label=f"step {step:,}")[0] for step in steps
    ]
    figure.legend(handles=handles, loc="outside right center", frameon=False, fontsize=9)


def draw_planes(curves: Mapping[str, Curve]) -> Figure:
    """Draw a new figure, see :func:`fill_planes`."""
    figure = Figure(figsize=(1.2 + 4.0 * len(curves), 3.6), dpi=120, layout="constrained")
    fill_planes(figure, curves)
    return figure
