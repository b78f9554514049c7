"""Mt-KaHyPar, a multilevel hypergraph partitioner of high quality, by the extra ``modelpar[mtkahypar]``."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np

from partitioners.graph import GraphError, UnitGraph
from partitioners.libraries import seed_for_library, weights_for_library
from partitioners.nets import ALLOWED, by_layers, nets_of
from partitioners.partition import Partition, partitioner

THREADS = 2


@partitioner
def mtkahypar(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The partition that Mt-KaHyPar finds: least connectivity minus one, all layers balanced (Gottesbüren et al. 2022).

    The preset is the deterministic one of quality.  Mt-KaHyPar takes one weight a unit, so single layers
    may be unbalanced: repair has to follow.  Complete links cost the same for all balanced partitions and are left out.
    Raises GraphError without Mt-KaHyPar, and where there are no parts.
    """
    try:
        import mtkahypar as library
    except ImportError:
        raise GraphError("the mtkahypar method needs Mt-KaHyPar: pip install 'modelpar[mtkahypar]'") from None
    nets = nets_of(graph)
    owner = np.arange(graph.n_units) * n_parts // max(graph.n_units, 1)
    if n_parts > 1 and len(nets.costs):
        offsets, units = nets.pins
        edges = [piece.tolist() for piece in np.split(units, offsets[1:-1])]
        kahypar = _started(library)
        library.set_seed(seed_for_library(seed))
        context = kahypar.context_from_preset(library.PresetType.DETERMINISTIC_QUALITY)
        context.set_partitioning_parameters(n_parts, ALLOWED - 1, library.Objective.KM1)
        context.logging = False
        weights = weights_for_library(nets.weights).tolist()
        hypergraph = kahypar.create_hypergraph(context, nets.n_units, len(edges), edges, weights, nets.costs.tolist())
        owner = np.array(hypergraph.partition(context).get_partition(), np.int64)
    return by_layers(owner.astype(np.int32), graph, n_parts)


@cache
def _started(library: Any) -> Any:
    """Start its threads, once in a process."""
    return library.initialize(THREADS)
