"""A portfolio of the methods of this package: searches from all, and the feasible partition of least volume."""

from __future__ import annotations

import math
import numbers
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from partitioners.arguments import GraphError, integer, shown
from partitioners.assignment import SWEEPS, assigned
from partitioners.block import block
from partitioners.coarsening import contracted, lifted, packed
from partitioners.graph import Complete, IntArray, UnitGraph
from partitioners.multilevel import hierarchy, refined_down
from partitioners.nets import Nets, Owner, by_layers, cost, flat, least_cost, limits, nets_of
from partitioners.partition import Partition, communication_volume, partitioner
from partitioners.random import random
from partitioners.refinement import feasible
from partitioners.repair import repaired
from partitioners.rounds import CACHED, WORKERS, Halted, Rounds
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.step_time import step_seconds
from partitioners.strided import strided

SPECTRAL, KEPT = 16, 3  # cuts along eigenvectors, each with its own seed, and how many of them are searched from ...
FEW_PARTS = 16  # ... at up to so many parts: many parts need many eigenvectors, and are seldom best by these
FOR_UNIT = 4_000_000  # look-ups of nets in all searches, for each unit ...
FEWEST, MOST = 100_000_000, 8_000_000_000  # ... and their limits
LARGE = 6_000_000  # entries of nets, beyond which bisection, eigenvectors and sweeps take too long
PATIENCE = 4  # rounds that find nothing better, after which a search ends
FINALISTS = 8  # of all that is found, the partitions of the least volume, for a choice by time

# why a search ends
BOUND, STALE, ENOUGH, TIME = "a bound was met", f"nothing better in {PATIENCE} rounds", "all was done", "time was over"


class Progress(NamedTuple):
    """Where a search stands: rounds that are complete, the least volume so far, and at the end why it ends."""

    rounds: int
    volume: int
    seconds: float
    stopped: str = ""


class Search(NamedTuple):
    """How long to search.

    budget    seconds; default: a number of look-ups that follows from the size of the network
    rounds    at most so many: as many as a search with a budget has told of give its answer again
    progress  is called with the start, after every round, and with the end
    """

    budget: float | None = None
    rounds: int | None = None
    progress: Callable[[Progress], None] | None = None

    def checked(self) -> Search:
        """Raises GraphError where a limit is impossible."""
        budget, rounds = self.budget, self.rounds
        if budget is not None:
            number = isinstance(budget, numbers.Real) and not isinstance(budget, bool)
            if not number or not 0 < budget < math.inf:
                raise GraphError(f"the budget is {shown(budget)}, but must be a number of seconds above 0")
        if rounds is not None:
            rounds = integer("the number of rounds", rounds)
        return self._replace(rounds=rounds)


@partitioner
def auto(
    graph: UnitGraph, n_parts: int, *, seed: int = 0, budget: float | None = None, rounds: int | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Partition:  # fmt: skip
    """The feasible partition of the least volume that :func:`searched` finds; of equals that with the fastest step.

    budget, rounds, progress  see :class:`Search`

    Deterministic for a seed, with a budget for a seed and the number of rounds.  Raises GraphError where there are no
    parts, and for impossible limits.
    """
    answers = searched(graph, n_parts, seed, Search(budget, rounds, progress))
    costs = [(not feasible(graph, one), communication_volume(graph, one).total) for one in answers]
    best = [one for one, its_cost in zip(answers, costs, strict=True) if its_cost == min(costs)]
    return best[0] if len(best) == 1 else min(best, key=lambda one: step_seconds(graph, one))


def searched(graph: UnitGraph, n_parts: int, seed: int, search: Search | None = None) -> list[Partition]:
    """The best results of rounds of searches from the partitions of all methods; then block and strided.

    It ends with the first of these: a lower bound of the volume is met; PATIENCE rounds found nothing better; the
    limits of ``search``.  The starts are made whatever these are.  Between completely connected layers every balanced
    partition costs the same, and blocks are returned.  Raises GraphError where there are no parts, and for impossible
    limits.
    """
    search = (search or Search()).checked()
    begun, plain = time.monotonic(), block(graph, n_parts, seed=seed)

    def tell(n_rounds: int, volume: int, stopped: str = "") -> None:
        if search.progress is not None:
            search.progress(Progress(n_rounds, volume, time.monotonic() - begun, stopped))

    volume = communication_volume(graph, plain).total
    if n_parts == 1 or all(isinstance(link, Complete) for link in graph.links):
        tell(0, volume, BOUND)
        return [plain]
    nets, allowed, group = nets_of(graph), limits(graph, n_parts), packed(graph, n_parts)
    of_complete = volume - cost(nets, flat(plain), n_parts)  # what complete links cost with any partition
    if int(group.max(initial=-1)) + 1 < graph.n_units:
        small = contracted(nets, group)
    else:  # without twins groups are units, in another order
        small, group = nets, np.arange(graph.n_units)
    lookups = int(np.clip(FOR_UNIT * graph.n_units, FEWEST, MOST) / (1 + len(small.nets) / CACHED))
    with ThreadPoolExecutor(WORKERS) as pool:
        starts = [repaired(small, one, n_parts, allowed) for one in _starts(graph, small, group, n_parts, seed, pool)]
        deadline = None if search.budget is None else begun + search.budget
        rounds = Rounds(nets, small, group, n_parts, allowed, lookups, seed, pool, deadline)
        owners = _gathered(rounds, starts, search, lambda n, least, stopped="": tell(n, of_complete + least, stopped))
    return [*[by_layers(owner, graph, n_parts) for owner in owners], plain, strided(graph, n_parts, seed=seed)]


def _gathered(rounds: Rounds, starts: list[Owner], search: Search, tell: Callable[..., None]) -> list[Owner]:
    """Owners of the FINALISTS of least cost, of all rounds until something ends them.   tell(rounds, cost, end)"""
    best = [(cost(rounds.small, one, rounds.n_parts), one[rounds.group]) for one in starts]
    best = sorted(best, key=lambda one: one[0])[:FINALISTS]
    bound, n_rounds, stale, used, size = least_cost(rounds.nets, rounds.allowed), 0, 0, 0, 0
    following = rounds.outcomes(starts)
    while True:
        limit = search.rounds if search.rounds is not None else math.inf
        by_lookups = search.rounds is None and search.budget is None
        stopped = (
            BOUND if best[0][0] <= bound
            else STALE if stale == PATIENCE
            else ENOUGH if n_rounds >= limit or (by_lookups and used + size > rounds.lookups)
            else ""
        )  # fmt: skip
        tell(n_rounds, best[0][0], stopped)
        if stopped:
            break
        try:
            used, (size, found) = used + size, next(following)
        except Halted:
            tell(n_rounds, best[0][0], TIME)
            break
        n_rounds, stale = n_rounds + 1, 0 if found[0].cost < best[0][0] else stale + 1
        best = sorted([*best, *((one.cost, one.owner) for one in found)], key=lambda one: one[0])[:FINALISTS]
    return [owner for _, owner in best]


def _starts(
    graph: UnitGraph, small: Nets, group: IntArray, n_parts: int, seed: int, pool: ThreadPoolExecutor
) -> list[Owner]:
    """Owners of groups, (n_groups,), by all methods from which searches start."""
    allowed, alone = limits(graph, n_parts), np.arange(small.n_units)
    methods: list[Callable[..., Partition]] = [block, random] if graph.coordinates is None else [tiles, strips]
    large = len(small.nets) >= LARGE
    if not large:
        methods.append(spectral)
    waiting = [pool.submit(assigned, small, n_parts, allowed, seed=seed, sweeps=1 if large else SWEEPS)]
    levels = hierarchy(small, alone, n_parts, allowed, seed=seed)
    if len(levels[-1].nets.nets) < LARGE:
        waiting.append(pool.submit(refined_down, levels, n_parts, allowed, seed=seed, tries=1))
    starts = [lifted(flat(method(graph, n_parts, seed=seed)), group) for method in methods]
    if len(small.nets) <= CACHED and n_parts <= FEW_PARTS:  # a symmetric network has many, and a seed takes one
        cuts = [lifted(flat(spectral(graph, n_parts, seed=seed + i)), group) for i in range(1, SPECTRAL)]
        cuts = [repaired(small, one, n_parts, allowed) for one in cuts]
        starts += sorted(cuts, key=lambda one: cost(small, one, n_parts))[:KEPT]
    return starts + [one.result() for one in waiting]
