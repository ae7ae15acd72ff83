"""Cut points of a data-flow graph: the nodes that every path from one node to another passes through.

Nodes are integers in execution order; ``reads[node]`` are the nodes that it reads, all smaller than the node itself.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def dominators(reads: Sequence[Sequence[int]], start: int) -> dict[int, int]:
    """The immediate dominator of each node: the last node before it on every path from ``start``.

    Args:
        reads: for each node, the nodes that it reads.
        start: where the paths begin.

    Returns:
        The immediate dominator of each node that ``start`` reaches; ``start`` itself is not a key.

    Source: Cooper, Harvey & Kennedy, A simple, fast dominance algorithm, 2001; an acyclic graph needs only one pass.

    >>> dominators([[], [0], [1], [1, 2], [3]], start=0)  # 2 is bypassed
    {1: 0, 2: 1, 3: 1, 4: 3}
    """
    above: dict[int, int] = {}
    for node in range(start + 1, len(reads)):
        for source in reads[node]:
            if source == start or source in above:
                above[node] = meet(above, above[node], source) if node in above else source
    return above


def meet(above: Mapping[int, int], a: int, b: int) -> int:
    """The last node on every path to either of two nodes; their start, if there is none.

    Args:
        above: the result of :func:`dominators`.
        a: a node that the start reaches.
        b: another.
    """
    while a != b:
        if a > b:
            a = above[a]
        else:
            b = above[b]
    return a


def weighted_steps(reads: Sequence[Sequence[int]], weights: Sequence[bool], above: Mapping[int, int]) -> set[int]:
    """The nodes with a weight on some path from their immediate dominator, or at the node itself.

    Args:
        reads: for each node, the nodes that it reads.
        weights: for each node, whether a weight enters there.
        above: the result of :func:`dominators`.
    """
    found: set[int] = set()
    for node, dominator in above.items():
        if weights[node]:
            found.add(node)
            continue
        for source in reads[node]:
            while source in above and source != dominator:
                if source in found:
                    found.add(node)
                source = above[source]
    return found


def cut_points(above: Mapping[int, int], end: int) -> list[int]:
    """The nodes that every path to ``end`` passes through, in order, including ``end`` but not the start.

    Args:
        above: the result of :func:`dominators` for the start.
        end: where the paths end; if no path reaches it, there is no cut point.
    """
    cuts = []
    while end in above:
        cuts.append(end)
        end = above[end]
    return cuts[::-1]


def layers(cuts: Sequence[int], weighted: set[int]) -> list[list[int]]:
    """Group the cut points into layers, each of which extends from one weight to the next.

    Args:
        cuts: the result of :func:`cut_points`.
        weighted: the result of :func:`weighted_steps`.

    >>> layers([1, 2, 3, 4, 6], weighted={2, 4})
    [[2, 3], [4, 6]]
    """
    found: list[list[int]] = []
    for node in cuts:
        if node in weighted:
            found.append([])
        if found:
            found[-1].append(node)
    return found


def between(reads: Sequence[Sequence[int]], first: int, last: int) -> list[int]:
    """The nodes on the paths from ``first`` to ``last``, in order, including ``last`` but not ``first``."""
    below = {first}
    for node in range(first + 1, last + 1):
        if not below.isdisjoint(reads[node]):
            below.add(node)
    needed = {last}
    for node in range(last, first, -1):
        if node in needed:
            needed.update(reads[node])
    return sorted((needed & below) - {first})
