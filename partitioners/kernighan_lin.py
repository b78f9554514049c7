"""Recursive bisection by pairwise swaps: the oldest heuristic, by networkx."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from partitioners.graph import IntArray, UnitGraph
from partitioners.partition import Partition, partitioner
from partitioners.spatial import cut_at

if TYPE_CHECKING:
    import networkx as nx


@partitioner
def kernighan_lin(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Each piece is cut at its layers' weighted medians in unit order, then units are swapped (Kernighan and Lin 1970).

    This lowers the edge cut, and keeps the number of units on either side but not each layer's weight: the result may
    be unbalanced, and then needs repair.  Every swap compares all units, and complete links become edges, so it suits
    networks of a few thousand units.  Deterministic for a seed.  Raises GraphError where there are no
    parts.
    """
    owner = np.zeros(graph.n_units, np.int64)
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    _cut(graph.to_networkx(), np.arange(graph.n_units), n_parts, 0, layer, graph.weights, owner, seed)
    return Partition(tuple(np.split(owner, graph.offsets[1:-1])), n_parts)


def _cut(
    graph: nx.Graph,
    units: IntArray,
    n_parts: int,
    first: int,
    layer: IntArray,
    weights: IntArray,
    owner: IntArray,
    seed: int,
) -> None:
    """Give the parts ``first .. first + n_parts - 1`` to these units, ascending; ``graph`` is that between them."""
    if n_parts == 1 or len(units) < 2:
        owner[units] = first
        return
    half = n_parts // 2
    below = np.zeros(len(units), bool)
    for i in np.unique(layer[units]):
        members = np.flatnonzero(layer[units] == i)
        below[members[: cut_at(weights[units[members]], half, n_parts)]] = True
    sides = set(units[below].tolist()), set(units[~below].tolist())
    if all(sides):
        import networkx as nx

        sides = nx.algorithms.community.kernighan_lin_bisection(graph, partition=sides, seed=seed)
    for side, parts, start in ((sides[0], half, first), (sides[1], n_parts - half, first + half)):
        piece = np.array(sorted(side), np.int64)
        _cut(graph.subgraph(piece.tolist()), piece, parts, start, layer, weights, owner, seed)
