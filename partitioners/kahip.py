"""KaHIP, a multilevel graph partitioner of high quality, by the extra ``modelpar[kahip]``."""

from __future__ import annotations

import numpy as np

from partitioners.graph import GraphError, UnitGraph
from partitioners.libraries import seed_for_library, weights_for_library
from partitioners.nets import ALLOWED
from partitioners.partition import Partition, partitioner


@partitioner
def kahip(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The partition that KaHIP finds: least edge cut, all layers together balanced (Sanders and Schulz 2013).

    The preset is "eco".  KaHIP takes one weight a unit, so single layers may be unbalanced: repair has to follow.
    Complete links become edges.  Raises GraphError without KaHIP, and where there are no parts.
    """
    try:
        import kahip as library
    except ImportError:
        raise GraphError("the kahip method needs KaHIP: pip install 'modelpar[kahip]'") from None
    owner = np.arange(graph.n_units) * n_parts // max(graph.n_units, 1)
    if n_parts > 1 and graph.n_edges:
        matrix, small = graph.adjacency(), seed_for_library(seed)
        weights = weights_for_library(graph.weights).tolist()
        first, neighbours, ones = matrix.indptr.tolist(), matrix.indices.tolist(), [1] * len(matrix.indices)
        _, parts = library.kaffpa(weights, first, ones, neighbours, n_parts, ALLOWED - 1, True, small, library.ECO)
        owner = np.asarray(parts, np.int64)
    return Partition(tuple(np.split(owner, graph.offsets[1:-1])), n_parts)
