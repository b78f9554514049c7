"""Contiguous blocks: neighbouring units stay together."""

from __future__ import annotations

import numpy as np

from partitioners.graph import IntArray, UnitGraph, unit_weights
from partitioners.partition import Partition, each_layer


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
    start = np.cumsum(weights) - weights
    # whole numbers, so exact, as long as n_parts times the layer's weight is below 2**63
    owners = start * np.int64(n_parts) // max(int(weights.sum()), 1)
    return np.minimum(owners, n_parts - 1).astype(np.int64)  # units without weight after the last one that has some
