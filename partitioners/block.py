"""Contiguous blocks: neighbouring units stay together."""

from __future__ import annotations

import numpy as np

from partitioners.arguments import LARGEST
from partitioners.graph import IntArray, UnitGraph, unit_weights
from partitioners.partition import Partition, each_layer, partitioner


@partitioner
def block(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Every layer cut into contiguous blocks of about equal weight; ``seed`` is not used.

    The weights of the layer are laid out on a line, which is cut into ``n_parts`` equal lengths; a unit goes to the
    part in which its start is.  So no part exceeds the mean by as much as the layer's heaviest unit, and the numbers of
    equal units differ by at most one.
    """
    return each_layer(graph, n_parts, block_owners)


def block_owners(weights: IntArray, n_parts: int) -> IntArray:
    """(n_units,) weights of one layer's units -> (n_units,) their parts."""
    if not weights.any():
        weights = unit_weights([len(weights)])  # nothing to balance: make the numbers of units even
    start, total = np.cumsum(weights) - weights, max(int(weights.sum()), 1)
    if total * n_parts > LARGEST:  # beyond 64 bits with integers of Python, which are exact at any size
        owners = np.array([each * n_parts // total for each in start.tolist()], np.int64)
    else:
        owners = start * np.int64(n_parts) // total
    return np.minimum(owners, n_parts - 1).astype(np.int64)  # for units without weight after the last one with weight
