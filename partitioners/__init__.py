"""Ways to divide the units of a layered network among parts, and the measures to compare them by.

Every method is ``method(graph, n_parts, *, seed) -> Partition`` and balances each layer by weight.  This package knows
nothing of training: a :class:`Partition` is one integer array per layer.
"""

from __future__ import annotations

from collections.abc import Callable

from partitioners.auto import auto
from partitioners.block import block
from partitioners.graph import Complete, GraphError, Sparse, UnitGraph, dense, from_masks, sparse
from partitioners.multilevel import feasible, refined
from partitioners.partition import Measures, Partition, Volume, communication_volume, edge_cut, imbalance, measure
from partitioners.random import random
from partitioners.spatial import strips, tiles
from partitioners.strided import strided

METHODS: dict[str, Callable[..., Partition]] = {
    "block": block, "strided": strided, "random": random, "tiles": tiles, "strips": strips, "auto": auto,
}  # fmt: skip

__all__ = [
    "METHODS",
    "Complete",
    "GraphError",
    "Measures",
    "Partition",
    "Sparse",
    "UnitGraph",
    "Volume",
    "auto",
    "block",
    "communication_volume",
    "dense",
    "edge_cut",
    "feasible",
    "from_masks",
    "imbalance",
    "measure",
    "random",
    "refined",
    "sparse",
    "strided",
    "strips",
    "tiles",
]
