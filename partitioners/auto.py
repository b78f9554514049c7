"""A portfolio of the methods of this package: searches from all, and the feasible partition of least volume."""

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
from partitioners.multilevel import hierarchy, refined_down
from partitioners.nets import Nets, Owner, by_layers, cost, flat, limits, nets_of
from partitioners.partition import Partition, communication_volume, partitioner
from partitioners.random import random
from partitioners.refinement import feasible, mean_unit_cost
from partitioners.repair import repaired
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.step_time import step_seconds
from partitioners.strided import strided

# (temperature at the start, in the states that the nets of a unit carry on average; whether swaps are local)
HEATS = ((0.04, True), (0.01, True), (0.03, False), (0.08, False), (0.2, False), (0.4, False))
UNIT_HEATS = (HEATS[0], HEATS[3], HEATS[4])  # of these, for searches on single units from the start
LAST = (0.01, 0.03)  # temperatures for single units, after groups
SPECTRAL, KEPT = 16, 3  # cuts along eigenvectors, each with its own seed, and how many of them are searched from
FOR_UNIT = 5_000_000  # look-ups of nets in all searches, for each unit ...
FEWEST, MOST = 100_000_000, 10_000_000_000  # ... and their limits
CACHED = 1_000_000  # entries of nets, beyond which look-ups take longer, so that fewer are done
LARGE = 6_000_000  # entries of nets, beyond which bisection, eigenvectors and sweeps take too long
EACH = 10  # look-ups for every entry of the nets, at least, in one search
FINALISTS = 8  # of the searches, those of the least volume
WORKERS = 2  # searches at the same time; their results do not depend on it


class Search(NamedTuple):
    """One annealing: its start, its temperature, whether swaps are local, and the seed of its draws."""

    start: Owner
    heat: float
    near: bool
    seed: int


class Outcome(NamedTuple):
    """The owners that a search has found, and their cost."""

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

    def run(self, searches: Sequence[Search], lookups: int) -> list[Outcome]:
        """The outcomes of searches, best first; each may use ``lookups`` and a few more for every entry of the nets."""
        per_search, unit_cost = lookups + EACH * len(self.nets.nets), mean_unit_cost(self.nets)

        def one(search: Search) -> Outcome:
            start, heat, near, seed = search
            owner = improved(
                self.nets, start, self.n_parts, self.allowed,
                lookups=per_search, hot=heat * unit_cost, near=near, seed=seed,
            )  # fmt: skip
            return Outcome(cost(self.nets, owner, self.n_parts), search, owner)

        return sorted(self.pool.map(one, searches), key=_cost_of)

    def halved(self, starts: Sequence[Owner], lookups: int, seed: int) -> list[Outcome]:
        """Short searches from all starts at all heats, longer ones from the best, long ones from the best of these."""
        outcomes = self.run([Search(start, *how, seed) for start in starts for how in HEATS],
                         lookups // 4 // len(starts) // len(HEATS))  # fmt: skip
        again = [one.search._replace(seed=seed + 1) for one in outcomes[:4]]
        outcomes = sorted([*outcomes, *self.run(again, lookups // 16)], key=_cost_of)
        return sorted([*outcomes, *self.run(_finalists(outcomes, seed + 2), lookups // 8)], key=_cost_of)


@partitioner
def auto(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The feasible partition of the least volume that :func:`searched` finds; of equals that with the fastest step.

    Deterministic for a seed.  Raises GraphError where there are no parts.
    """
    answers = searched(graph, n_parts, seed)
    costs = [(not feasible(graph, one), communication_volume(graph, one).total) for one in answers]
    best = [one for one, its_cost in zip(answers, costs, strict=True) if its_cost == min(costs)]
    return best[0] if len(best) == 1 else min(best, key=lambda one: step_seconds(graph, one))


def searched(graph: UnitGraph, n_parts: int, seed: int) -> list[Partition]:
    """The results of searches from the partitions of all methods, the least volume first; then block and strided.

    Groups of twins are moved first, then single units.  Short searches run from every start at every temperature, and
    the best are continued (successive halving: Jamieson and Talwalkar 2016).  Between completely connected layers every
    balanced partition costs the same, and blocks are returned.  The work depends on the size of the graph only, and the
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
            outcomes = race.run([Search(start, *HEATS[0], seed) for start in starts], lookups // 4 // len(starts))
        else:
            outcomes = race.halved(starts, lookups // 2 if grouped else lookups, seed)
        if grouped:
            last = [Search(one.owner[group], heat, True, seed) for one, heat in zip(outcomes, LAST, strict=False)]
            if len(nets.nets) <= CACHED:  # groups may be too coarse for the best cuts
                last += [Search(one.start[group], *how, seed) for one in _best_starts(outcomes) for how in UNIT_HEATS]
            race = Race(nets, n_parts, allowed, pool)
            outcomes = race.run(last, lookups // 24)
            if len(last) > len(LAST):
                again = [one.search._replace(seed=one.search.seed + 1) for one in outcomes[:4]]
                outcomes = sorted([*outcomes, *race.run(again, lookups // 12)], key=_cost_of)
    answers = [by_layers(one.owner, graph, n_parts) for one in outcomes[:FINALISTS]]
    return [*answers, plain, strided(graph, n_parts, seed=seed)]


def _cost_of(outcome: Outcome) -> int:
    return outcome.cost


def _best_starts(outcomes: Sequence[Outcome]) -> list[Search]:
    """The best search of each of the two best starts, or of the only one."""
    first = outcomes[0].search
    return [first, *[one.search for one in outcomes if one.search.start is not first.start][:1]]


def _finalists(outcomes: Sequence[Outcome], seed: int) -> list[Search]:
    """The two best starts, each at its own temperature and at the one that suits most networks in long searches."""
    best = _best_starts(outcomes)
    return [s for one in best for s in (one._replace(seed=seed), Search(one.start, *HEATS[0], seed + 1))]


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
    if len(small.nets) <= CACHED:  # a symmetric network has many second eigenvectors, and a seed takes one
        cuts = [lifted(flat(spectral(graph, n_parts, seed=seed + i)), group) for i in range(1, SPECTRAL)]
        cuts = [repaired(small, one, n_parts, allowed) for one in cuts]
        starts += sorted(cuts, key=lambda one: cost(small, one, n_parts))[:KEPT]
    return starts + [one.result() for one in waiting]
