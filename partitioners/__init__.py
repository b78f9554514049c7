"""Methods that divide the units of a layered network among parts, and measures that compare them.

Every method is ``method(graph, n_parts, *, seed) -> Partition`` and balances each layer by weight.  This package is
independent of training: a :class:`Partition` is one integer array per layer.
"""

from __future__ import annotations

from partitioners.assignment import assignment
from partitioners.auto import auto
from partitioners.block import block
from partitioners.fastest import fastest
from partitioners.graph import Complete, GraphError, Sparse, UnitGraph, dense, from_masks, sparse
from partitioners.kahip import kahip
from partitioners.kernighan_lin import kernighan_lin
from partitioners.methods import METHODS, method
from partitioners.metis import metis
from partitioners.mtkahypar import mtkahypar
from partitioners.multilevel import multilevel
from partitioners.partition import (
    Measures,
    Partition,
    Volume,
    communication_volume,
    edge_cut,
    empty_parts,
    imbalance,
    measure,
)
from partitioners.placement import load_placement, save_placement
from partitioners.random import random
from partitioners.refinement import feasible, moves, refined, then_refined
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.step_time import Rates, step_seconds
from partitioners.strided import strided
from partitioners.traffic import Bytes, Traffic, largest_send, messages, predicted_bytes, traffic

__all__ = [
    "METHODS",
    "Bytes",
    "Complete",
    "GraphError",
    "Measures",
    "Partition",
    "Rates",
    "Sparse",
    "Traffic",
    "UnitGraph",
    "Volume",
    "assignment",
    "auto",
    "block",
    "communication_volume",
    "dense",
    "edge_cut",
    "empty_parts",
    "fastest",
    "feasible",
    "from_masks",
    "imbalance",
    "kahip",
    "kernighan_lin",
    "largest_send",
    "load_placement",
    "measure",
    "messages",
    "method",
    "metis",
    "moves",
    "mtkahypar",
    "multilevel",
    "predicted_bytes",
    "random",
    "refined",
    "save_placement",
    "sparse",
    "spectral",
    "step_seconds",
    "strided",
    "strips",
    "then_refined",
    "tiles",
    "traffic",
]
