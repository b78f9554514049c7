"""The portfolio of the methods of this package, by the predicted time of a step."""

from __future__ import annotations

from collections.abc import Callable

from partitioners.auto import Progress, Search, searched
from partitioners.graph import UnitGraph
from partitioners.partition import Partition, partitioner
from partitioners.refinement import feasible
from partitioners.step_time import step_seconds


@partitioner
def fastest(
    graph: UnitGraph, n_parts: int, *, seed: int = 0, budget: float | None = None, rounds: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Partition:  # fmt: skip
    """Of the results of :func:`partitioners.auto.searched`, the feasible one with the least predicted step time.

    budget, rounds, progress  see :class:`partitioners.auto.Search`

    It may send more states than that of ``auto`` where the busiest part then waits for fewer.  Deterministic for a
    seed, with a budget for a seed and the number of rounds.  Raises GraphError where there are no parts, and for
    impossible limits.
    """
    answers = searched(graph, n_parts, seed, Search(budget, rounds, progress))
    return min(answers, key=lambda one: (not feasible(graph, one), step_seconds(graph, one)))
