"""A graph whose nodes are to be classified, such as a citation network."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from mireg.ablation.data.dataset import PARTS, Dataset
from mireg.ablation.data.loaded import Loaded, graph
from mireg.ablation.errors import UserError
from mireg.ablation.tasks import classification


def load_graph(name: str, path: Path) -> Dataset:
    """Load a graph from a NumPy archive (.npz) of integer arrays; the whole graph is the batch of each part.

    The inputs are the features, (nodes, features) float32 whose rows sum to 1 or are 0, and the adjacency
    (:func:`normalised_adjacency`); the targets are the classes, -100 for the nodes of other parts.

    ========================== =================================================================================
    ``feature_row``            the node of each nonzero feature
    ``feature_column``         its feature, of the same length: the bag of words in coordinates, every value 1
    ``label``                  the class of each node, from 0, which also says how many nodes there are
    ``edges``                  (edges, 2) pairs of connected nodes; each pair once, in any direction
    ``train``                  the nodes of the training set
    ``validation``             the nodes of the validation set
    ``test``                   the nodes of the test set; those in none are used without their class
    ========================== =================================================================================

    Source of the features' and the adjacency's normalisation: Kipf & Welling, Semi-supervised classification with graph
    convolutional networks, ICLR 2017.

    Raises:
        UserError: if the file cannot be read, an array is missing or has another shape or type, a number is out of
            range, or a node is in two of the sets.
    """
    arrays = _read(path)
    nodes = len(arrays["label"])
    rows, columns = arrays["feature_row"], arrays["feature_column"]
    if len(rows) != len(columns):
        raise UserError(f"{path}: feature_row has {len(rows)} entries and feature_column {len(columns)}: give pairs")
    for name in ("feature_row", "edges", *PARTS):
        if len(arrays[name]) and int(arrays[name].max()) >= nodes:
            raise UserError(f"{path}: {name} names node {int(arrays[name].max())}, but label has {nodes} nodes, from 0")
    features = torch.zeros(nodes, int(columns.max()) + 1)
    features[rows, columns] = 1
    masks = torch.zeros(len(PARTS), nodes, dtype=torch.bool)
    for mask, name in zip(masks, PARTS, strict=True):
        mask[arrays[name]] = True
    if both := int((masks.sum(0) > 1).sum()):
        raise UserError(f"{path}: {both} nodes are in two of {', '.join(PARTS)}: keep the sets apart")
    features /= features.sum(1, keepdim=True).clamp_min(1)
    inputs, labels = (features, normalised_adjacency(arrays["edges"], nodes)), arrays["label"]
    parts = zip(PARTS, graph(inputs, labels, tuple(masks)), strict=True)
    return Dataset(
        name, classification(int(labels.max()) + 1), *(Loaded(batch, f"{name}: {of}") for of, batch in parts)
    )


def normalised_adjacency(edges: Tensor, nodes: int) -> Tensor:
    """``D^-1/2 (A + I) D^-1/2`` of an undirected graph, with D the degrees of A + I: (nodes, nodes) sparse float32.

    The edges are (edges, 2) int64 pairs of connected nodes; a pair that comes twice counts once.

    >>> normalised_adjacency(torch.tensor([[0, 1]]), 3).to_dense()
    tensor([[0.5000, 0.5000, 0.0000],
            [0.5000, 0.5000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    loops = torch.arange(nodes)[:, None].expand(nodes, 2)
    pairs = torch.cat([edges, edges.flip(1), loops]).unique(dim=0)
    scale = pairs[:, 0].bincount(minlength=nodes).float().rsqrt()
    values = scale[pairs[:, 0]] * scale[pairs[:, 1]]
    return torch.sparse_coo_tensor(pairs.T, values, (nodes, nodes), check_invariants=True).coalesce()


def _read(path: Path) -> dict[str, Tensor]:
    """The arrays of the file, as int64."""
    names = ("feature_row", "feature_column", "label", "edges", *PARTS)
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if missing := [name for name in names if name not in archive]:
                raise UserError(f"{path} has no array {missing[0]!r}: it must have {', '.join(names)}")
            found = {name: archive[name] for name in names}
    except OSError as error:
        raise UserError(f"cannot read {path} ({error.strerror or error})") from error
    except (ValueError, TypeError, EOFError, zipfile.BadZipFile) as error:  # not an archive, or one of objects
        raise UserError(f"cannot read {path}: give a NumPy archive, as numpy.savez writes it") from error
    for name, array in found.items():
        rest, shape = ((2,), "shape (edges, 2)") if name == "edges" else ((), "one dimension")
        if array.ndim == 0 or array.shape[1:] != rest or array.dtype.kind not in "iu":
            raise UserError(f"{path}: {name} is {array.dtype} {array.shape}: give integers of {shape}")
        if array.size == 0 and name != "test":
            raise UserError(f"{path}: {name} is empty")
        if array.size and int(array.min()) < 0:
            raise UserError(f"{path}: {name} has {int(array.min())}: count from 0")
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in found.items()}
