"""METIS, the most used graph partitioner, by the extra ``modelpar[metis]``."""

from __future__ import annotations

import numpy as np

from partitioners.graph import GraphError, UnitGraph
from partitioners.libraries import seed_for_library, weights_for_library
from partitioners.partition import Partition, partitioner


@partitioner
def metis(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The partition that METIS finds: least edge cut, all layers together balanced (Karypis and Kumar 1998).

    pymetis passes one weight a unit, so single layers may be unbalanced: repair has to follow.  Complete links become
    edges.  Deterministic for a seed.  Raises GraphError without pymetis, and where there are no parts.
    """
    try:
        import pymetis
    except ImportError:
        raise GraphError("the metis method needs pymetis: pip install 'modelpar[metis]'") from None
    if n_parts == 1 or graph.n_edges == 0 or n_parts >= graph.n_units:  # METIS leaves no part empty
        owner = np.arange(graph.n_units) * n_parts // max(graph.n_units, 1)
    else:
        matrix = graph.adjacency()
        _, parts = pymetis.part_graph(
            n_parts,
            pymetis.CSRAdjacency(matrix.indptr, matrix.indices),
            vweights=weights_for_library(graph.weights),
            options=pymetis.Options(seed=seed_for_library(seed), ufactor=30),
        )
        owner = np.asarray(parts, np.int64)
    return Partition(tuple(np.split(owner, graph.offsets[1:-1])), n_parts)
