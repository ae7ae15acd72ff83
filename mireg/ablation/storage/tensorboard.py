"""TensorBoard: one directory per run, the same tags in each, so that arms overlay."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from tensorboard.compat.proto.summary_pb2 import Summary
from torch.utils.tensorboard import SummaryWriter

from mireg.ablation.storage.files import writing
from mireg.ablation.study.metric import Metric


class Tracker:
    """Writes the curves of one run.

    Args:
        folder: folder of the run, where event files of an interrupted attempt are kept; None writes nothing.
        metric: the compared metric.
        resumed_at: step of the checkpoint from which the run continues, None without one; what an earlier attempt wrote
            after it is discarded. It may be set until something is written.
    """

    def __init__(self, folder: Path | None, metric: Metric, resumed_at: int | None = None) -> None:
        self.resumed_at = resumed_at
        self._folder = folder
        self._metric = metric

    @cached_property
    def _writer(self) -> SummaryWriter | None:
        # The point at the checkpoint's own step was logged, and flushed, before the checkpoint was written.
        purged_from = 0 if self.resumed_at is None else self.resumed_at + 1
        return SummaryWriter(str(self._folder), purge_step=purged_from, flush_secs=10) if self._folder else None

    def log(self, point: Mapping[str, Any]) -> None:
        """Write one point of the run's curve, see :func:`mireg.ablation.training.loop.fit`."""
        scalars = {
            f"validation/{self._metric.name}": point[self._metric.validation],
            "train/loss": point.get("loss"),
            "train/step_ms": point["step_ms"],
            "term/share_of_loss": point.get("term_share"),
        }
        for index, (pair, nats) in enumerate(point.get("mi", {}).items()):
            # Numbered, so that the page lists pairs from the input to the output.
            scalars[f"mi_nats/{index:03d}_{pair}"] = nats
        self.add(scalars | {f"rewarded/{key}": nats for key, nats in point.get("rewarded", {}).items()}, point["step"])

    def add(self, scalars: Mapping[str, float | None], step: int) -> None:
        """Write numbers by tag, except None; one event for all of them costs a tenth of ``add_scalar`` for each."""
        with writing():
            if self._writer:
                values = [Summary.Value(tag=tag, simple_value=v) for tag, v in scalars.items() if v is not None]
                writer: Any = self._writer.file_writer
                writer.add_summary(Summary(value=values), step)

    def flush(self) -> None:
        """Write the logged values to the file."""
        with writing():
            if self._writer:
                self._writer.flush()

    def close(self) -> None:
        """Flush and close the event file, if there is one."""
        if (writer := vars(self).get("_writer")) is not None:
            with writing():
                writer.close()
