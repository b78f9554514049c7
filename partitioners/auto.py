"""A portfolio of our own methods: searches from all of them, and the feasible partition of the least volume."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from partitioners.annealing import improved
from partitioners.assignment import SWEEPS, assigned
from partitioners.block import block
from partitioners.coarsening import contracted, lifted, packed
from partitioners.graph import Complete, IntArray, UnitGraph
from partitioners.multilevel import climbed_down, ladder
from partitioners.nets import Nets, Owner, by_layers, cost, flat, limits, nets_of
from partitioners.partition import Partition, communication_volume, partitioner
from partitioners.random import random
from partitioners.refinement import carried, feasible
from partitioners.repair import repaired
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.step_time import step_seconds
from partitioners.strided import strided

# (temperature at the start, in the states that the nets of a unit carry on average; whether swaps are near by)
HEATS = ((0.04, True), (0.01, True), (0.03, False), (0.08, False), (0.2, False), (0.4, False))
FINE = (HEATS[0], HEATS[3], HEATS[4])  # of these, for single units from the start
LAST = (0.01, 0.03)  # the same for single units, in the end
SPECTRAL, KEPT = 16, 3  # cuts along eigenvectors, each with a seed of its own, and how many of them race
FOR_UNIT = 5_000_000  # look-ups of nets in a whole search, for each unit ...
FEWEST, MOST = 100_000_000, 10_000_000_000  # ... and in all
CACHED = 1_000_000  # entries of nets, beyond which look-ups take longer, so that fewer are done
LARGE = 6_000_000  # entries of nets, beyond which bisection, eigenvectors and sweeps take too long
EACH = 10  # look-ups for every entry of the nets, at least, in one search
FINALISTS = 8  # of the searches, those of the least volume
WORKERS = 2  # searches at the same time; what they find does not depend on it


class Search(NamedTuple):
    """An annealing to be done: where it starts, how hot, whether swaps are near by, and the seed of its draws."""

    start: Owner
    heat: float
    near: bool
    seed: int


class Found(NamedTuple):
    """What a search has found, and its cost."""

    cost: int
    search: Search
    owner: Owner


@dataclass(frozen=True)
class Race:
    """Searches on the same nets, two at a time."""

    nets: Nets
    n_parts: int
    allowed: IntArray
    pool: ThreadPoolExecutor

    def run(self, searches: Sequence[Search], lookups: int) -> list[Found]:
        """What the searches find, each with so many look-ups and a few for every entry of the nets, the best first."""
        each, unit = lookups + EACH * len(self.nets.nets), carried(self.nets)

        def one(search: Search) -> Found:
            start, heat, near, seed = search
            owner = improved(
                self.nets, start, self.n_parts, self.allowed, lookups=each, hot=heat * unit, near=near, seed=seed
            )
            return Found(cost(self.nets, owner, self.n_parts), search, owner)

        return sorted(self.pool.map(one, searches), key=_cost_of)

    def halved(self, starts: Sequence[Owner], lookups: int, seed: int) -> list[Found]:
        """Short searches from all starts at all heats, longer ones from the best, long ones from the best of these."""
        found = self.run([Search(start, *how, seed) for start in starts for how in HEATS],
                         lookups // 4 // len(starts) // len(HEATS))  # fmt: skip
        again = [one.search._replace(seed=seed + 1) for one in found[:4]]
        found = sorted([*found, *self.run(again, lookups // 16)], key=_cost_of)
        return sorted([*found, *self.run(_finalists(found, seed + 2), lookups // 8)], key=_cost_of)


@partitioner
def auto(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The feasible partition of the least volume that :func:`searched` finds; of several the one with the fastest step.

    Deterministic for a seed.  Raises GraphError where there are no parts.
    """
    answers = searched(graph, n_parts, seed)
    costs = [(not feasible(graph, one), communication_volume(graph, one).total) for one in answers]
    best = [one for one, its in zip(answers, costs, strict=True) if its == min(costs)]
    return best[0] if len(best) == 1 else min(best, key=lambda one: step_seconds(graph, one))


def searched(graph: UnitGraph, n_parts: int, seed: int) -> list[Partition]:
    """What searches from the partitions of all methods find, the least volume first; then block and strided.

    Groups of twins are moved first, then single units.  Short searches from every start at every temperature race for
    longer ones (successive halving: Jamieson and Talwalkar 2016).  Between completely connected layers every balanced
    partition costs the same, and blocks are returned.  The work is bounded by the size of the graph alone, and the
    result is deterministic for a seed.  Raises GraphError where there are no parts.
    """
    plain = block(graph, n_parts, seed=seed)
    if n_parts == 1 or all(isinstance(link, Complete) for link in graph.links):
        return [plain]
    nets, allowed, group = nets_of(graph), limits(graph, n_parts), packed(graph, n_parts)
    grouped = int(group.max(initial=-1)) + 1 < graph.n_units
    small = contracted(nets, group) if grouped else nets
    lookups = int(np.clip(FOR_UNIT * graph.n_units, FEWEST, MOST) / (1 + len(small.nets) / CACHED))
    with ThreadPoolExecutor(WORKERS) as pool:
        race = Race(small, n_parts, allowed, pool)
        starts = [repaired(small, one, n_parts, allowed) for one in _starts(graph, small, group, n_parts, seed, pool)]
        if EACH * len(small.nets) * len(starts) * len(HEATS) > lookups:  # a large network: no race
            found = race.run([Search(start, *HEATS[0], seed) for start in starts], lookups // 4 // len(starts))
        else:
            found = race.halved(starts, lookups // 2 if grouped else lookups, seed)
        if grouped:
            last = [Search(one.owner[group], heat, True, seed) for one, heat in zip(found, LAST, strict=False)]
            if len(nets.nets) <= CACHED:  # groups may be too coarse for the best cuts
                last += [Search(one.start[group], *how, seed) for one in _best_starts(found) for how in FINE]
            race = Race(nets, n_parts, allowed, pool)
            found = race.run(last, lookups // 24)
            if len(last) > len(LAST):
                again = [one.search._replace(seed=one.search.seed + 1) for one in found[:4]]
                found = sorted([*found, *race.run(again, lookups // 12)], key=_cost_of)
    answers = [by_layers(one.owner, graph, n_parts) for one in found[:FINALISTS]]
    return [*answers, plain, strided(graph, n_parts, seed=seed)]


def _cost_of(found: Found) -> int:
    return found.cost


def _best_starts(found: Sequence[Found]) -> list[Search]:
    """The best search of each of the two starts that did best, or of the only one."""
    first = found[0].search
    return [first, *[one.search for one in found if one.search.start is not first.start][:1]]


def _finalists(found: Sequence[Found], seed: int) -> list[Search]:
    """The two starts that did best, each as it did and as suits most networks when the search is long."""
    best = _best_starts(found)
    return [s for one in best for s in (one._replace(seed=seed), Search(one.start, *HEATS[0], seed + 1))]


def _starts(
    graph: UnitGraph, small: Nets, group: IntArray, n_parts: int, seed: int, pool: ThreadPoolExecutor
) -> list[Owner]:
    """Owners of groups, (n_groups,), by all methods that a search could start from."""
    allowed, alone = limits(graph, n_parts), np.arange(small.n_units)
    methods: list[Callable[..., Partition]] = [block, random] if graph.coordinates is None else [tiles, strips]
    large = len(small.nets) >= LARGE
    if not large:
        methods.append(spectral)
    waiting = [pool.submit(assigned, small, n_parts, allowed, seed=seed, sweeps=1 if large else SWEEPS)]
    rungs = ladder(small, alone, n_parts, allowed, seed=seed)
    if len(rungs[-1].nets.nets) < LARGE:
        waiting.append(pool.submit(climbed_down, rungs, n_parts, allowed, seed=seed, tries=1))
    found = [lifted(flat(method(graph, n_parts, seed=seed)), group) for method in methods]
    if len(small.nets) <= CACHED:  # a symmetric network has many second eigenvectors, and a seed takes one
        cuts = [lifted(flat(spectral(graph, n_parts, seed=seed + i)), group) for i in range(1, SPECTRAL)]
        cuts = [repaired(small, one, n_parts, allowed) for one in cuts]
        found += sorted(cuts, key=lambda one: cost(small, one, n_parts))[:KEPT]
    return found + [one.result() for one in waiting]
