"""A folder of images, with a folder for each class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from mireg.ablation.data.dataset import Dataset, Samples, mean_and_std
from mireg.ablation.errors import UserError
from mireg.ablation.tasks import classification

HELD_OUT = 0.1
"""Fraction of the images held out for validation and, if there is no test folder, for testing."""


def load_folder(name: str, path: Path) -> Dataset:
    """Load images of one size from PATH/train/CLASS and PATH/test/CLASS, or from PATH/CLASS.

    A tenth of the training images, always the same, is used for validation; without a test folder, another
    tenth of all images is used for testing. Images are read as grey if the first one is grey, else as RGB.
    Files whose names begin with a dot are ignored.

    Raises:
        UserError: if a folder is missing or empty, or an image cannot be read or has a different size.
    """
    if not path.is_dir():
        raise UserError(f"cannot read {path}: no such folder")
    present = [part for part in ("train", "test") if (path / part).is_dir()]
    if len(present) == 1 and _folders(path / present[0]):  # else it is a class with that name
        raise UserError(f"{path} holds a folder {present[0]} alone: give train and test, or nothing but class folders")
    if len(present) == 2:
        classes = _folders(path / "train")
        train, test = (_files(path / part, classes) for part in ("train", "test"))
        if extra := sorted(set(_folders(path / "test")) - set(classes)):
            raise UserError(f"{path / 'test' / extra[0]} has no counterpart in {path / 'train'}")
        train, validation = _hold_out(train)
    else:
        classes = _folders(path)
        train, test = _hold_out(_files(path, classes))
        train, validation = _hold_out(train, HELD_OUT / (1 - HELD_OUT))
    if len(classes) < 2:
        raise UserError(f"{path} has too few class folders, {len(classes)}: give at least 2")
    for part, files in (("training", train), ("validation", validation), ("testing", test)):
        if not files:
            raise UserError(f"{path} holds too few images: none is left for {part}")
    images = _read([file for part in (train, validation, test) for file, _ in part])
    scale, counts = mean_and_std(images[: len(train)]), [len(part) for part in (train, validation, test)]
    labels = torch.tensor([label for part in (train, validation, test) for _, label in part])
    parts = zip(images.split(counts), labels.split(counts), strict=True)
    return Dataset(name, classification(len(classes)), *(Samples(x, y, *scale) for x, y in parts))


Files = list[tuple[Path, int]]
"""Images and their classes."""


def _folders(path: Path) -> list[str]:
    return sorted(entry.name for entry in path.iterdir() if entry.is_dir() and not entry.name.startswith("."))


def _files(path: Path, classes: Sequence[str]) -> Files:
    found: Files = []
    for label, name in enumerate(classes):
        folder = path / name
        files = sorted(file for file in folder.glob("*") if file.is_file() and not file.name.startswith("."))
        if not files:
            raise UserError(f"{folder} holds no image: put the images of that class there, or remove the class")
        found += [(file, label) for file in files]
    return found


def _hold_out(files: Files, share: float = HELD_OUT) -> tuple[Files, Files]:
    """Split off a share of the files, always the same for the same number of files."""
    order = np.random.default_rng(0).permutation(len(files)).tolist()
    held = set(order[: round(share * len(files))])
    return [f for i, f in enumerate(files) if i not in held], [f for i, f in enumerate(files) if i in held]


def _read(files: Sequence[Path]) -> Tensor:
    """Read images as (n, channels, height, width) uint8, in the mode and size of the first one."""
    images: list[np.ndarray] = []
    mode, size = "", (0, 0)
    for file in files:
        try:
            with Image.open(file) as image:
                if image.mode[0] in "IF":
                    raise UserError(f"{file} has pixels of more than 8 bits ({image.mode}): bring all images to 8 bits")
                if not images:
                    mode, size = "L" if image.mode in ("1", "L", "LA") else "RGB", image.size
                if image.size != size:
                    found, first = ("x".join(map(str, pixels)) for pixels in (image.size, size))
                    raise UserError(f"{file} is {found} pixels, the first image {first}: bring all images to one size")
                images.append(np.asarray(image.convert(mode)))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            reason = str(error).replace(f" {str(file)!r}", "").strip() or type(error).__name__
            raise UserError(f"cannot read the image {file} ({reason}): replace or remove it") from error
    pixels = torch.from_numpy(np.stack(images)).reshape(len(images), size[1], size[0], -1)
    return pixels.permute(0, 3, 1, 2).contiguous()
