"""Characters of a text file, each to be told from those before it."""

from pathlib import Path

import pytest
import torch

from mireg.ablation.data import load
from mireg.ablation.errors import UserError


def test_targets_are_the_next_characters(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("abcdé" * 100, encoding="utf-8")
    data = load(f"text:{path}", tmp_path, 8)
    assert (data.task.name, data.outputs, data.input_shape) == ("next-token", 5, (8,))
    inputs, targets = data.train.batch(torch.tensor([0, 3]))
    assert inputs[0].tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert inputs[1].tolist() == [3, 4, 0, 1, 2, 3, 4, 0]
    assert torch.equal(targets, (inputs + 1) % 5)
    assert inputs.dtype == targets.dtype == torch.int64


def test_parts_follow_one_another_and_do_not_overlap(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("".join(chr(0x4E00 + i) for i in range(1000)))  # each character once
    data = load(f"text:{path}", tmp_path, 10)
    assert data.test is not None
    parts = [set(split.batch(slice(None))[1].flatten().tolist()) for split in (data.train, data.validation, data.test)]
    assert [(min(part), max(part)) for part in parts] == [(1, 899), (901, 940), (951, 990)]
    assert [len(split) for split in (data.train, data.validation, data.test)] == [890, 4, 4]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"ab" * 100, "too short: it has 200 characters, and a context of 64 needs about 1300"),
        (b"", "too short: it has 0 characters"),
        (b"a" * 5000, "repeats one character: there is nothing to learn"),
        (b"ab\xff" * 1000, "is not UTF-8 text (invalid start byte at byte 2)"),
        (None, "(No such file or directory)"),
    ],
)
def test_refused(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "text.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load(f"text:{path}", tmp_path)
    assert message in str(error.value)
    assert str(path) in str(error.value)
