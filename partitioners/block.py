"""Contiguous blocks: neighbouring units stay together."""

from __future__ import annotations

import numpy as np

from partitioners.arguments import LARGEST
from partitioners.graph import IntArray, UnitGraph, unit_weights
from partitioners.partition import Partition, each_layer, partitioner


@partitioner
def block(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Every layer cut into contiguous blocks of about equal weight; ``seed`` is not used, no draw is needed.

    A unit goes to the part into which its start falls, when the layer's weight is laid out on a line and cut into
    ``n_parts`` equal lengths.  So no part exceeds the mean by as much as the layer's heaviest unit, and sizes of equal
    units differ by at most one.
    """
    return each_layer(graph, n_parts, block_owners)


def block_owners(weights: IntArray, n_parts: int) -> IntArray:
    """(n_units,) weights of one layer's units -> (n_units,) their parts."""
    if not weights.any():
        weights = unit_weights([len(weights)])  # nothing to balance: let the numbers of units be even
    start, total = np.cumsum(weights) - weights, max(int(weights.sum()), 1)
    if total * n_parts > LARGEST:  # beyond 64 bits by numbers of Python, which are exact at any size
        owners = np.array([each * n_parts // total for each in start.tolist()], np.int64)
    else:
        owners = start * np.int64(n_parts) // total
    return np.minimum(owners, n_parts - 1).astype(np.int64)  # units without weight after the last one that has some
