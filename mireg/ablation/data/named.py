"""Named data sets, downloaded if necessary."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mireg.ablation.data.dataset import Dataset, Samples, mean_and_std
from mireg.ablation.data.folder import load_folder
from mireg.ablation.data.graph_file import load_graph
from mireg.ablation.data.text import load_text
from mireg.ablation.errors import UserError
from mireg.ablation.tasks import classification, regression

VALIDATION = 5000
"""Number of validation samples, always the last of a downloaded training set."""

Pair = tuple[Tensor, Tensor]
"""Images (n, channels, height, width) uint8, and their classes (n,)."""

SYSTEM_FOLDERS = {"fashion-mnist": Path("/usr/share/datasets/fashion-mnist")}
"""Folders where a Linux distribution's package installs a data set."""


def _digits(data_dir: Path, context: int) -> Dataset:
    """1,797 grey images of digits, 8 x 8 pixels, 10 classes; comes with scikit-learn."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    order = np.random.default_rng(0).permutation(len(bunch.target))  # the file is sorted by writer
    images = torch.from_numpy(bunch.images[order].astype(np.uint8))[:, None]
    labels = torch.from_numpy(bunch.target[order].astype(np.int64))
    return _images("digits", (images[:1400], labels[:1400]), (images[1400:], labels[1400:]), validation=200)


def _diabetes(data_dir: Path, context: int) -> Dataset:
    """442 patients: 10 measurements, and the disease progression a year later, standardised; with scikit-learn."""
    from sklearn.datasets import load_diabetes

    bunch = load_diabetes()
    order = np.random.default_rng(0).permutation(len(bunch.target))
    columns = np.column_stack([bunch.data, bunch.target])[order]
    columns = (columns - columns[:282].mean(0)) / columns[:282].std(0)
    parts = torch.from_numpy(columns).float().split([282, 80, 80])
    return Dataset("diabetes", regression(1), *(Samples(part[:, :10], part[:, 10:]) for part in parts))


def _fashion_mnist(data_dir: Path, context: int) -> Dataset:
    """70,000 grey images of clothes, 28 x 28 pixels, 10 classes."""
    return _mnist_family("fashion-mnist", "FashionMNIST", data_dir)


def _mnist(data_dir: Path, context: int) -> Dataset:
    """70,000 grey images of digits, 28 x 28 pixels, 10 classes."""
    return _mnist_family("mnist", "MNIST", data_dir)


def _mnist_family(name: str, torchvision_name: str, data_dir: Path) -> Dataset:
    folder = _idx_folder(name, torchvision_name, data_dir)
    return _images(name, _idx_pair(folder, "train"), _idx_pair(folder, "t10k"), VALIDATION)


def _idx_folder(name: str, torchvision_name: str, data_dir: Path) -> Path:
    """The folder with the data set's IDX files, downloaded if necessary."""
    raw, system = data_dir / torchvision_name / "raw", SYSTEM_FOLDERS.get(name)
    for folder in filter(None, (data_dir, data_dir / name, raw, system)):
        if any((folder / f"t10k-images-idx3-ubyte{suffix}").exists() for suffix in ("", ".gz")):
            return folder
    package = f", install the package dataset-{name} (Debian, Ubuntu)" if system else ""
    _download(name, torchvision_name, data_dir, f"put its four IDX files (.gz or not) into {data_dir / name}{package}")
    return raw


def _cifar10(data_dir: Path, context: int) -> Dataset:
    """60,000 colour images, 32 x 32 pixels, 10 classes; also as image folders, cifar10/train and cifar10/test."""
    from torchvision.datasets import CIFAR10

    if (data_dir / "cifar10" / "train").is_dir():
        return load_folder("cifar10", data_dir / "cifar10")
    if not (data_dir / CIFAR10.base_folder).exists():
        images = f"images into train/CLASS and test/CLASS of {data_dir / 'cifar10'}"
        _download("cifar10", "CIFAR10", data_dir, f"unpack its Python version into {data_dir}, or {images}")
    try:
        train, test = CIFAR10(data_dir, train=True), CIFAR10(data_dir, train=False)
    except RuntimeError as error:  # wrong checksums
        raise UserError(f"cifar10 in {data_dir / CIFAR10.base_folder} is damaged: fetch its files again") from error
    pairs = [
        (torch.from_numpy(part.data).permute(0, 3, 1, 2).contiguous(), torch.tensor(part.targets))
        for part in (train, test)
    ]
    return _images("cifar10", pairs[0], pairs[1], VALIDATION)


def _shakespeare(data_dir: Path, context: int) -> Dataset:
    """The plays, 1.1 million characters: the next character of each."""
    what = "the plays, as plain text (those of the char-rnn examples, 1.1 million characters)"
    return load_text("shakespeare", _there("shakespeare", data_dir / "shakespeare.txt", what), context)


def _cora(data_dir: Path, context: int) -> Dataset:
    """A citation graph: 2,708 papers, 7 classes, 140 of them labelled for training (Yang et al., 2016)."""
    what = "the graph, as mireg.ablation.data.graph_file reads it"
    return load_graph("cora", _there("cora", data_dir / "cora.npz", what))


def _there(name: str, path: Path, what: str) -> Path:
    """The path of a file, or an error that explains what it should be."""
    if not path.exists():
        remedy = f"put {what}, into {path}, or name the folder that holds it with --data-dir"
        raise UserError(f"dataset {name!r} is not on this machine: {remedy}")
    return path


def _download(name: str, torchvision_name: str, data_dir: Path, remedy: str) -> None:
    """Download with torchvision, or raise an error that explains how to get the data without it."""
    import torchvision

    try:
        getattr(torchvision.datasets, torchvision_name)(data_dir, download=True)
    except (OSError, RuntimeError) as error:  # no network, no disk space, a damaged file
        reason = str(error).splitlines()[0].rstrip(":. ")
        raise UserError(
            f"dataset {name!r} is not on this machine and could not be downloaded ({reason}): {remedy}, "
            "or name the folder that holds it with --data-dir"
        ) from error


def _idx_pair(folder: Path, part: str) -> Pair:
    images, labels = (_read_idx(folder, f"{part}-{what}") for what in ("images-idx3", "labels-idx1"))
    if len(images) != len(labels):
        raise UserError(f"{folder} holds {len(images)} images but {len(labels)} labels: fetch its files again")
    return torch.from_numpy(images.copy())[:, None], torch.from_numpy(labels.copy()).long()


def _read_idx(folder: Path, stem: str) -> np.ndarray:
    """Read an IDX file of unsigned bytes, gzip-compressed or not.

    Source: the format description of the MNIST database: magic 0, 0, type 8, rank, big-endian sizes.
    """
    path = folder / f"{stem}-ubyte"
    compressed = folder / f"{stem}-ubyte.gz"
    try:
        data = path.read_bytes() if path.exists() else gzip.decompress(compressed.read_bytes())
        if data[:3] != b"\x00\x00\x08":
            raise ValueError("it is not an IDX file of bytes")
        shape = struct.unpack_from(f">{data[3]}I", data, 4)
        if 0 in shape:
            raise ValueError("it holds no samples")
        return np.frombuffer(data, np.uint8, offset=4 + 4 * data[3]).reshape(shape)
    except (OSError, EOFError, ValueError, IndexError, struct.error, zlib.error) as error:
        which = path if path.exists() else compressed
        raise UserError(f"cannot read {which} ({error}): fetch the file again") from error


def _images(name: str, train: Pair, test: Pair, validation: int) -> Dataset:
    (images, labels), cut = train, len(train[0]) - validation
    parts = (images[:cut], labels[:cut]), (images[cut:], labels[cut:]), test
    scale, task = mean_and_std(images[:cut]), classification(int(labels.max()) + 1)
    return Dataset(name, task, *(Samples(x, y, *scale) for x, y in parts))


DATASETS: dict[str, Callable[[Path, int], Dataset]] = {
    "digits": _digits,
    "fashion-mnist": _fashion_mnist,
    "mnist": _mnist,
    "cifar10": _cifar10,
    "diabetes": _diabetes,
    "cora": _cora,
    "shakespeare": _shakespeare,
}
"""Loaders by name, functions of the data folder and, for texts, of the number of characters in a sample."""
