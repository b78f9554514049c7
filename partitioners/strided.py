"""Units assigned in turn: neighbouring units are on different parts."""

from __future__ import annotations

import numpy as np

from partitioners.graph import IntArray, UnitGraph
from partitioners.partition import Partition, each_layer, partitioner


@partitioner
def strided(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The units of every layer assigned in turn, heaviest first; ``seed`` is not used.

    Units of equal weight are taken in their own order, so that without weights unit i goes to part i mod n_parts.
    Parts differ by at most the weight of the layer's heaviest unit.
    """
    return each_layer(graph, n_parts, strided_owners)


def strided_owners(weights: IntArray, n_parts: int) -> IntArray:
    """(n_units,) weights of one layer's units -> (n_units,) their parts."""
    owners = np.empty(len(weights), np.int64)
    owners[np.argsort(-weights, kind="stable")] = np.arange(len(weights)) % n_parts
    return owners
