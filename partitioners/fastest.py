"""The portfolio of the methods of this package, by the predicted time of a step."""

from __future__ import annotations

from partitioners.auto import searched
from partitioners.graph import UnitGraph
from partitioners.partition import Partition, partitioner
from partitioners.refinement import feasible
from partitioners.step_time import step_seconds


@partitioner
def fastest(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Of the results of :func:`partitioners.auto.searched`, the feasible one with the least predicted step time.

    It may send more states than that of ``auto`` where the busiest part then waits for fewer.  Deterministic for a
    seed.  Raises GraphError where there are no parts.
    """
    return min(searched(graph, n_parts, seed), key=lambda one: (not feasible(graph, one), step_seconds(graph, one)))
