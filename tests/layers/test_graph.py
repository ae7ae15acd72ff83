"""Cut points against what removing a node, or listing every path, says."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mireg.layers.graph import between, cut_points, dominators, layers, weighted_steps

Reads = list[list[int]]


@st.composite
def graphs(draw: st.DrawFn) -> tuple[Reads, list[bool]]:
    size = draw(st.integers(2, 9))
    reads: Reads = [[]]
    for node in range(1, size):
        reads.append(sorted(draw(st.sets(st.integers(max(0, node - 4), node - 1), max_size=3))))
    return reads, draw(st.lists(st.booleans(), min_size=size, max_size=size))


def paths(reads: Reads, start: int, end: int) -> list[list[int]]:
    """Every path, each without its start."""
    if end == start:
        return [[]]
    return [[*path, end] for source in reads[end] for path in paths(reads, start, source)]


@given(graphs())
def test_cut_points_are_the_nodes_on_every_path(graph: tuple[Reads, list[bool]]) -> None:
    reads, _ = graph
    for start in range(len(reads)):
        above = dominators(reads, start)
        for end in range(start + 1, len(reads)):
            found = [set(path) for path in paths(reads, start, end)]
            assert cut_points(above, end) == sorted(set.intersection(*found) if found else ())


@given(graphs())
def test_a_step_is_weighted_where_a_path_meets_a_weight(graph: tuple[Reads, list[bool]]) -> None:
    reads, weights = graph
    for start in range(len(reads)):
        above = dominators(reads, start)
        weighted = weighted_steps(reads, weights, above)
        for node, dominator in above.items():
            met = any(weights[step] for path in paths(reads, dominator, node) for step in path)
            assert (node in weighted) == met


@given(graphs())
def test_between_is_the_union_of_the_paths(graph: tuple[Reads, list[bool]]) -> None:
    reads, _ = graph
    for first in range(len(reads)):
        for last in range(first + 1, len(reads)):
            nodes = {step for path in paths(reads, first, last) for step in path}
            if nodes:
                assert between(reads, first, last) == sorted(nodes)


@given(graphs())
def test_layers_begin_at_the_first_weight_and_lose_no_cut_point(graph: tuple[Reads, list[bool]]) -> None:
    reads, weights = graph
    above = dominators(reads, 0)
    weighted = weighted_steps(reads, weights, above)
    cuts = cut_points(above, len(reads) - 1)
    found = layers(cuts, weighted)
    first = next((place for place, node in enumerate(cuts) if node in weighted), len(cuts))
    assert [node for layer in found for node in layer] == cuts[first:]
    assert all(layer[0] in weighted and weighted.isdisjoint(layer[1:]) for layer in found)


def test_long_graphs_take_no_recursion() -> None:
    reads: Reads = [[], *([node] for node in range(5000))]
    assert cut_points(dominators(reads, 0), 5000) == list(range(1, 5001))
