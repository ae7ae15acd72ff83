"""Graphs from a file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mireg.ablation.data import load
from mireg.ablation.data.graph_file import load_graph, normalised_adjacency
from mireg.ablation.errors import UserError

ARRAYS: dict[str, Any] = {
    "feature_row": [0, 0, 1, 3],
    "feature_column": [0, 2, 1, 2],
    "label": [0, 1, 1, 2],
    "edges": [[0, 1], [2, 1]],
    "train": [0],
    "validation": [2],
    "test": [3, 1],
}


def write(path: Path, **changes: Any) -> Path:
    arrays: dict[str, Any] = {name: np.array(value, np.int16) for name, value in ARRAYS.items()}
    arrays |= {name: np.asarray(value) for name, value in changes.items()}
    np.savez(path / "graph.npz", **arrays)
    return path / "graph.npz"


def test_what_is_read(tmp_path: Path) -> None:
    graph = load_graph("graph", write(tmp_path))
    (features, adjacency), targets = graph.train.batch(slice(None))
    assert features.tolist() == [[0.5, 0, 0.5], [0, 1, 0], [0, 0, 0], [0, 0, 1]]
    assert graph.outputs == 3
    assert targets.tolist() == [0, -100, -100, -100]
    assert graph.validation.batch(slice(None))[1].tolist() == [-100, -100, 1, -100]
    assert graph.final.batch(slice(None))[1].tolist() == [-100, 1, -100, 2]
    assert adjacency.is_sparse
    half, sixth = 1 / 2, 6**-0.5
    wanted = [[half, sixth, 0, 0], [sixth, 1 / 3, sixth, 0], [0, sixth, half, 0], [0, 0, 0, 1]]
    torch.testing.assert_close(adjacency.to_dense(), torch.tensor(wanted))


def test_a_pair_that_comes_twice_counts_once() -> None:
    once, twice = torch.tensor([[0, 1]]), torch.tensor([[0, 1], [1, 0], [0, 1], [1, 1]])
    assert torch.equal(normalised_adjacency(once, 2).to_dense(), normalised_adjacency(twice, 2).to_dense())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"feature_row": [0, 1]}, "feature_row has 2 entries and feature_column 4: give pairs"),
        ({"edges": [[0, 4]]}, "edges names node 4, but label has 4 nodes, from 0"),
        ({"test": [9]}, "test names node 9, but label has 4 nodes"),
        ({"validation": [0]}, "1 nodes are in two of train, validation, test: keep the sets apart"),
        ({"edges": [0, 1]}, "edges is int64 (2,): give integers of shape (edges, 2)"),
        ({"label": [0.0, 1.0, 1.0, 2.0]}, "label is float64 (4,): give integers of one dimension"),
        ({"train": np.array([], np.int64)}, "train is empty"),
        ({"label": [0, -1, 1, 2]}, "label has -1: count from 0"),
        ({"label": np.array([None, 1, 1, 2])}, "give a NumPy archive, as numpy.savez writes it"),
    ],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    path = write(tmp_path, **changes)
    with pytest.raises(UserError) as error:
        load_graph("graph", path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "(No such file or directory)"),
        (b"PK\x03\x04 broken", "give a NumPy archive"),
        (b"", "give a NumPy archive"),
        (b"text", "NumPy"),
    ],
)
def test_unreadable(tmp_path: Path, content: bytes | None, message: str) -> None:
    path = tmp_path / "graph.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(UserError) as error:
        load_graph("graph", path)
    assert message in str(error.value)
    assert str(path) in str(error.value)


def test_a_missing_array(tmp_path: Path) -> None:
    np.savez(tmp_path / "graph.npz", label=np.array([0, 1]))
    with pytest.raises(UserError, match="has no array 'feature_row': it must have feature_row, feature_column"):
        load_graph("graph", tmp_path / "graph.npz")


def test_a_single_array(tmp_path: Path) -> None:
    np.save(tmp_path / "graph.npy", np.array([0, 1]))
    with pytest.raises(UserError, match="give a NumPy archive"):
        load_graph("graph", tmp_path / "graph.npy")


def test_cora_is_one_batch_whose_parts_are_told_by_its_targets(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"'cora' is not on this machine: .*cora.npz"):
        load("cora", tmp_path)
    write(tmp_path).rename(tmp_path / "cora.npz")
    data = load("cora", tmp_path)
    assert (data.input_shape, data.outputs) == (((3,), (4,)), 3)
    parts = [split.batch(slice(None))[1].tolist() for split in (data.train, data.validation, data.final)]
    assert parts == [[0, -100, -100, -100], [-100, -100, 1, -100], [-100, 1, -100, 2]]
