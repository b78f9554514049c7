"""Units in random order: a baseline that ignores connections."""

from __future__ import annotations

import numpy as np

from partitioners.block import block_owners
from partitioners.graph import IntArray, UnitGraph
from partitioners.partition import Partition, each_layer, partitioner


@partitioner
def random(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Every layer in an order drawn by ``seed``, cut into blocks of about equal weight."""
    rng = np.random.default_rng(seed)

    def owners(weights: IntArray, n_parts: int) -> IntArray:
        order = rng.permutation(len(weights))
        parts = np.empty(len(weights), np.int64)
        parts[order] = block_owners(weights[order], n_parts)
        return parts

    return each_layer(graph, n_parts, owners)
