"""Ways to divide the units of a layered network among parts, and the measures to compare them by.

Every method is ``method(graph, n_parts, *, seed) -> Partition`` and balances each layer by weight.  This package knows
nothing of training: a :class:`Partition` is one integer array per layer.
"""

from __future__ import annotations

from collections.abc import Callable

from partitioners.block import block
from partitioners.graph import Complete, GraphError, Sparse, UnitGraph, dense, sparse
from partitioners.partition import Measures, Partition, Volume, communication_volume, edge_cut, imbalance, measure
from partitioners.strided import strided

METHODS: dict[str, Callable[..., Partition]] = {"block": block, "strided": strided}

__all__ = [
    "METHODS",
    "Complete",
    "GraphError",
    "Measures",
    "Partition",
    "Sparse",
    "UnitGraph",
    "Volume",
    "block",
    "communication_volume",
    "dense",
    "edge_cut",
    "imbalance",
    "measure",
    "sparse",
    "strided",
]
