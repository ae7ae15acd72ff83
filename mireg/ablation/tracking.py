"""TensorBoard: one directory per run, the same tags in each, so that arms overlay."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from mireg.ablation.config import RunSpec


class Tracker:
    """Writes the curves of one run.

    Args:
        folder: of the run; event files of an earlier, interrupted attempt stay.
        spec: of the run, kept as text beside the curves.
        resumed_at: step of the checkpoint that the run goes on from, 0 for none; what an earlier attempt
            wrote after it is void.
    """

    def __init__(self, folder: Path, spec: RunSpec, resumed_at: int) -> None:
        # The point at the checkpoint's own step was logged, and flushed, before the checkpoint was written.
        self._writer = SummaryWriter(str(folder), purge_step=resumed_at + 1 if resumed_at else 0, flush_secs=10)
        if not resumed_at:
            text = json.dumps(spec.as_dict(), indent=2)
            self._writer.add_text("configuration", f"```json\n{text}\n```")

    def log(self, point: dict[str, Any]) -> None:
        """Write one point of the run's curve, see :func:`mireg.ablation.run.train`."""
        step = point["step"]
        scalars = {
            "validation/accuracy": point["validation_accuracy"],
            "train/loss": point["loss"],
            "train/step_ms": point["step_ms"],
            "term/share_of_loss": point["term_share"],
        }
        for index, (pair, nats) in enumerate(point["mi"].items()):
            # Numbered, so that the page lists pairs from the input to the output.
            scalars[f"mi_nats/{index:03d}_{pair}"] = nats
        for tag, value in scalars.items():
            if value is not None:
                self._writer.add_scalar(tag, value, step)

    def flush(self) -> None:
        """Hand over what was logged to the file."""
        self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file."""
        self._writer.close()


class NoTracker:
    """Stands in where another process writes the curves."""

    def log(self, point: dict[str, Any]) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""
