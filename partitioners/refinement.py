"""Refinement of any method's partition, and the method that refines a simple start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from partitioners.annealing import improved
from partitioners.arguments import seed_of
from partitioners.block import block
from partitioners.graph import UnitGraph
from partitioners.nets import Nets, by_layers, flat, limits, nets_of
from partitioners.partition import Partition, check, part_weights, partitioner
from partitioners.repair import repaired
from partitioners.spatial import tiles

HEAT = 0.01  # temperature at the start of a refinement, in the states that the nets of a unit carry on average
LOOKUPS = 100_000_000  # of nets in one refinement, about a second of one core ...
EACH = 10  # ... and for every entry of the nets, on large networks

Method = Callable[..., Partition]


def feasible(graph: UnitGraph, partition: Partition) -> bool:
    """Whether the heaviest part of every layer is within the layer's limit."""
    return bool((part_weights(graph, partition).max(axis=1) <= limits(graph, partition.n_parts)).all())


def refined(graph: UnitGraph, start: Partition, *, seed: int) -> Partition:
    """A partition of at most the same volume, by moves and swaps of single units; infeasible ones are repaired first.

    Raises GraphError where the partition does not fit the graph.
    """
    start, seed = check(graph, start), seed_of(seed)
    allowed, nets = limits(graph, start.n_parts), nets_of(graph)
    owner = repaired(nets, flat(start), start.n_parts, allowed)
    lookups = LOOKUPS + EACH * len(nets.nets)
    owner = improved(nets, owner, start.n_parts, allowed, lookups=lookups, hot=HEAT * mean_unit_cost(nets), seed=seed)
    return by_layers(owner, graph, start.n_parts)


@partitioner
def moves(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Refinement of tiles, or of blocks where there are no coordinates.  Deterministic for a seed."""
    start = block if graph.coordinates is None else tiles
    return refined(graph, start(graph, n_parts, seed=seed), seed=seed)


def then_refined(method: Method) -> Method:
    """The method followed by repair and refinement."""

    def both(graph: UnitGraph, n_parts: int, *, seed: int = 0, **more: Any) -> Partition:
        return refined(graph, method(graph, n_parts, seed=seed, **more), seed=seed)

    both.__doc__ = f"``{getattr(method, '__name__', 'method')}``, followed by repair and refinement."
    return both


def mean_unit_cost(nets: Nets) -> float:
    """The mean number of states that the nets of a unit carry."""
    if not len(nets.nets):
        return 0.0
    return float(nets.costs[nets.nets].mean() * np.diff(nets.starts).mean())
