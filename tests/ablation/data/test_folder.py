"""Folders of images, a folder for each class."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from mireg.ablation.data import Samples, load
from mireg.ablation.errors import UserError


def fill(folder: Path, count: int, grey: int, *, mode: str = "RGB", size: tuple[int, int] = (6, 4)) -> None:
    """Images whose pixels are all of one value, another for each image."""
    folder.mkdir(parents=True)
    for index in range(count):
        Image.new("RGB", size, (grey + index,) * 3).convert(mode).save(folder / f"{index:03}.png")


def values(split: object) -> list[tuple[int, int]]:
    assert isinstance(split, Samples)
    return [(int(image[0, 0, 0]), int(label)) for image, label in zip(split.inputs, split.targets, strict=True)]


def test_train_and_test(tmp_path: Path) -> None:
    for part, count in (("train", 20), ("test", 3)):
        fill(tmp_path / part / "ants", count, 10)
        fill(tmp_path / part / "bees", count, 100)
    data = load(f"folder:{tmp_path}", tmp_path)
    assert (data.task.name, data.outputs, data.input_shape) == ("classification", 2, (3, 4, 6))
    assert [len(values(split)) for split in (data.train, data.validation, data.test)] == [36, 4, 6]
    seen = values(data.train) + values(data.validation)
    assert sorted(seen) == [(10 + i, 0) for i in range(20)] + [(100 + i, 1) for i in range(20)]
    inputs, _ = data.train.batch(slice(None))
    assert inputs.mean().abs() < 1e-4
    assert inputs.std() == pytest.approx(1, abs=1e-4)


def test_a_single_tree_is_split_once_and_for_all(tmp_path: Path) -> None:
    for label, name in enumerate(("ants", "bees")):
        fill(tmp_path / name, 25, 100 * label)
    data = load(f"folder:{tmp_path}", tmp_path)
    parts = [values(split) for split in (data.train, data.validation, data.test)]
    assert [len(part) for part in parts] == [40, 5, 5]
    assert len({image for part in parts for image in part}) == 50
    load.cache_clear()
    again = load(f"folder:{tmp_path}", tmp_path)
    assert [values(split) for split in (again.train, again.validation, again.test)] == parts


def test_grey_images_have_one_channel(tmp_path: Path) -> None:
    fill(tmp_path / "a", 10, 0, mode="L")
    fill(tmp_path / "b", 10, 50, mode="L")
    (tmp_path / "a" / ".DS_Store").write_text("not an image")
    data = load(f"folder:{tmp_path}", tmp_path)
    assert data.input_shape == (1, 4, 6)
    assert data.train.batch(torch.tensor([0]))[0].dtype == torch.float32


def spoil(tmp_path: Path, how: str) -> Sequence[str]:
    fill(tmp_path / "a", 10, 0)
    fill(tmp_path / "b", 10, 0)
    match how:
        case "unreadable":
            (tmp_path / "b" / "003.png").write_text("not an image")
            return f"cannot read the image {tmp_path / 'b' / '003.png'} (", "replace or remove it"
        case "cut":
            whole = (tmp_path / "b" / "003.png").read_bytes()
            (tmp_path / "b" / "003.png").write_bytes(whole[: len(whole) // 2])
            return (f"cannot read the image {tmp_path / 'b' / '003.png'} (",)
        case "size":
            Image.fromarray(np.zeros((5, 5), np.uint8)).save(tmp_path / "b" / "004.png")
            return str(tmp_path / "b" / "004.png"), "is 5x5 pixels, the first image 6x4"
        case "empty":
            (tmp_path / "c").mkdir()
            return (f"{tmp_path / 'c'} holds no image",)
        case "16 bits":
            Image.fromarray(np.full((4, 6), 300, np.uint16)).save(tmp_path / "b" / "004.png")
            return str(tmp_path / "b" / "004.png"), "has pixels of more than 8 bits", "bring all images to 8 bits"
        case "lacking":
            for folder in ("train/a", "train/b", "test/a"):
                fill(tmp_path / folder, 10, 0)
            return f"{tmp_path / 'test' / 'b'} holds no image", "or remove the class"
        case "extra":
            for name in ("a", "b"):
                fill(tmp_path / "train" / name, 10, 0)
                fill(tmp_path / "test" / name, 10, 0)
            fill(tmp_path / "test" / "c", 1, 0)
            return (f"{tmp_path / 'test' / 'c'} has no counterpart in {tmp_path / 'train'}",)
        case "no test":
            for name in ("a", "b"):
                fill(tmp_path / "train" / name, 10, 0)
            return (f"{tmp_path} holds a folder train alone: give train and test",)
        case _:
            for file in (tmp_path / "b").iterdir():
                file.unlink()
            (tmp_path / "b").rmdir()
            return (f"{tmp_path} has too few class folders, 1: give at least 2",)


@pytest.mark.parametrize(
    "how", ["unreadable", "cut", "size", "empty", "16 bits", "lacking", "extra", "no test", "one class"]
)
def test_refused(tmp_path: Path, how: str) -> None:
    parts = spoil(tmp_path, how)
    with pytest.raises(UserError) as error:
        load(f"folder:{tmp_path}", tmp_path)
    assert all(part in str(error.value) for part in parts), str(error.value)
    assert "\n" not in str(error.value)


def test_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot read .*nowhere: no such folder"):
        load(f"folder:{tmp_path / 'nowhere'}", tmp_path)
