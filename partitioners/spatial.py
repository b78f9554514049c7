"""Cuts through the plane of the units' coordinates, in one direction for all layers, so that fields stay together."""

from __future__ import annotations

import numpy as np

from partitioners.graph import GraphError, IntArray, UnitGraph
from partitioners.links import offsets_of
from partitioners.partition import Partition, partitioner


@partitioner
def tiles(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Recursive bisection by coordinates (Berger and Bokhari 1987): each piece is cut across its longer side.

    Every layer is cut at its own weighted median, so that each is balanced.  Raises GraphError where there are no
    coordinates.
    """
    return _bisected(graph, n_parts, None)


@partitioner
def strips(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """As ``tiles``, but all cuts in the same direction.  Raises GraphError without coordinates."""
    return _bisected(graph, n_parts, 0)


def _bisected(graph: UnitGraph, n_parts: int, direction: int | None) -> Partition:
    if graph.coordinates is None:
        raise GraphError("cuts through the plane need the units' coordinates, but the graph has none")
    owners = [np.zeros(size, np.int64) for size in graph.layers]
    _cut(graph, [np.arange(size) for size in graph.layers], n_parts, 0, direction, owners)
    return Partition(tuple(owners), n_parts)


def _cut(
    graph: UnitGraph, units: list[IntArray], n_parts: int, first: int, direction: int | None, owners: list[IntArray]
) -> None:
    """Give the parts ``first .. first + n_parts - 1`` to these units of every layer."""
    if n_parts == 1:
        for owner, members in zip(owners, units, strict=True):
            owner[members] = first
        return
    assert graph.coordinates is not None
    points = np.concatenate([layer[members] for layer, members in zip(graph.coordinates, units, strict=True)])
    axis = direction
    if axis is None:
        axis = int(np.argmax(np.ptp(points, axis=0))) if len(points) else 0
    half = n_parts // 2
    below, above = [], []
    for i, members in enumerate(units):
        order = np.lexsort((members, graph.coordinates[i][members, 1 - axis], graph.coordinates[i][members, axis]))
        weights = graph.layer_weights(i)[members[order]]
        cut = cut_at(weights, half, n_parts)
        below.append(np.sort(members[order[:cut]]))
        above.append(np.sort(members[order[cut:]]))
    _cut(graph, below, half, first, direction, owners)
    _cut(graph, above, n_parts - half, first + half, direction, owners)


def cut_at(weights: IntArray, parts_below: int, n_parts: int) -> int:
    """The number of first units whose weight is closest to ``parts_below / n_parts`` of the total."""
    total = offsets_of(weights)
    wanted = int(total[-1]) * parts_below / n_parts
    if total[-1] == 0:
        return len(weights) * parts_below // n_parts
    at = int(np.searchsorted(total, wanted))
    return at - 1 if at > 0 and wanted - total[at - 1] < total[min(at, len(weights))] - wanted else at
