"""Data sets: named ones, folders of images, text files, and a user's own loaders."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from mireg.ablation.data.dataset import Batch, Dataset, Samples, Split, Windows, moved
from mireg.ablation.data.folder import load_folder
from mireg.ablation.data.loaded import Loaded, graph, samples_in
from mireg.ablation.data.named import DATASETS
from mireg.ablation.data.own import load_own
from mireg.ablation.data.text import load_text
from mireg.ablation.errors import UserError, nearest
from mireg.ablation.tasks import named_task
from mireg.ablation.user_code import import_name

__all__ = [
    "CONTEXT",
    "DATASETS",
    "FORMS",
    "Batch",
    "Dataset",
    "Loaded",
    "Samples",
    "Split",
    "Windows",
    "graph",
    "is_dataset",
    "load",
    "moved",
    "samples_in",
]

FORMS = {
    "folder:PATH": "images in train/CLASS and test/CLASS, or in CLASS",
    "text:FILE": "the next character of a text file, UTF-8",
    "package.module:loader": "your own function, see docs/own_network.md",
}
"""Accepted names in addition to those in :data:`DATASETS`."""

CONTEXT = 64
"""Default context length in characters, for text; the model option ``context`` overrides it."""


def is_dataset(name: str) -> bool:
    """Whether a name has the form of a data set name; only :func:`load` checks that the data exist."""
    kind, colon, rest = name.partition(":")
    return name in DATASETS or bool(kind and colon and rest)


@lru_cache(maxsize=1)  # a worker's next run usually needs the same data
def load(name: str, data_dir: Path, context: int = CONTEXT, task: str | None = None) -> Dataset:
    """Load a data set.

    Args:
        name: one of :data:`DATASETS`, or a name in a form of :data:`FORMS`.
        data_dir: folder in which named data sets are looked for, and to which they are downloaded.
        context: characters per sample, for text.
        task: name of a task or ``package.module:TASK``; by default the data's own.

    Raises:
        UserError: on an unknown name, or if the data are missing, damaged or unsuitable for training.
    """
    if not is_dataset(name):
        choices = ", ".join([*DATASETS, *FORMS])
        raise UserError(f"unknown dataset {name!r}{nearest(name, DATASETS)}: choose from {choices}")
    wanted = named_task(task) if task else None
    kind, _, path = name.partition(":")
    if name not in DATASETS and kind not in ("folder", "text"):
        loader = import_name(name)
        return load_own(name, loader, wanted)
    if name in DATASETS:
        data = DATASETS[name](data_dir, context)
    elif kind == "folder":
        data = load_folder(name, Path(path).expanduser())
    else:
        data = load_text(name, Path(path).expanduser(), context)
    return data.with_task(wanted) if wanted else data
