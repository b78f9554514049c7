"""Cuts through the plane in which the units lie: the same lines for all layers, so that fields stay together."""

from __future__ import annotations

import numpy as np

from partitioners.graph import GraphError, IntArray, UnitGraph
from partitioners.partition import Partition, partitioner


@partitioner
def tiles(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Recursive bisection by coordinates (Berger and Bokhari 1987): each piece is cut across its longer side.

    Every layer is cut at its own weighted median, so each is balanced for itself.  Raises GraphError where there are no
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
        for owner, mine in zip(owners, units, strict=True):
            owner[mine] = first
        return
    assert graph.coordinates is not None
    places = np.concatenate([layer[mine] for layer, mine in zip(graph.coordinates, units, strict=True)])
    axis = direction
    if axis is None:
        axis = int(np.argmax(np.ptp(places, axis=0))) if len(places) else 0
    half = n_parts // 2
    below, above = [], []
    for i, mine in enumerate(units):
        order = np.lexsort((mine, graph.coordinates[i][mine, 1 - axis], graph.coordinates[i][mine, axis]))
        weights = graph.layer_weights(i)[mine[order]]
        at = cut_at(weights, half, n_parts)
        below.append(np.sort(mine[order[:at]]))
        above.append(np.sort(mine[order[at:]]))
    _cut(graph, below, half, first, direction, owners)
    _cut(graph, above, n_parts - half, first + half, direction, owners)


def cut_at(weights: IntArray, parts_below: int, n_parts: int) -> int:
    """How many of these units, in order, weigh most nearly ``parts_below / n_parts`` of all."""
    total = np.concatenate([[0], np.cumsum(weights)])
    wanted = int(total[-1]) * parts_below / n_parts
    if total[-1] == 0:
        return len(weights) * parts_below // n_parts
    at = int(np.searchsorted(total, wanted))
    return at - 1 if at > 0 and wanted - total[at - 1] < total[min(at, len(weights))] - wanted else at
