"""A portfolio of our own methods: the feasible partition of the least volume."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from partitioners.annealing import improved
from partitioners.assignment import assigned
from partitioners.block import block
from partitioners.coarsening import contracted, lifted, packed
from partitioners.graph import Complete, IntArray, UnitGraph
from partitioners.multilevel import climbed_down, ladder
from partitioners.nets import Nets, Owner, by_layers, cost, flat, limits, nets_of
from partitioners.partition import Partition, communication_volume
from partitioners.random import random
from partitioners.refinement import carried, feasible
from partitioners.repair import repaired
from partitioners.spatial import strips, tiles
from partitioners.spectral import spectral
from partitioners.strided import strided

# (temperature at the start, in the states that the nets of a unit carry on average; whether swaps are near by)
HEATS = ((0.04, True), (0.01, True), (0.03, False), (0.08, False), (0.2, False), (0.4, False))
LAST = (0.01, 0.03)  # the same for single units, in the end
FOR_UNIT, FEWEST, MOST = (
    2_500_000,
    100_000_000,
    12_000_000_000,
)  # look-ups of nets for a whole search, by number of units
CACHED = 1_000_000  # entries of nets, beyond which look-ups take longer, so that fewer are done
LARGE = 6_000_000  # entries of nets, beyond which bisection and eigenvectors take too long
EACH = 10  # look-ups for every entry of the nets, at least, in one search
WORKERS = 2  # searches at the same time; what they find does not depend on it


class Search(NamedTuple):
    """An annealing to be done: where it starts, how hot, whether swaps are near by, and the seed of its draws."""

    start: Owner
    heat: float
    near: bool
    seed: int


def auto(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """The best of what searches from the partitions of all methods find, and of block and strided as they are.

    Groups of twins are moved first, then single units.  Short searches from every start at every temperature race for
    longer ones (successive halving: Jamieson and Talwalkar 2016).  Between completely connected layers every balanced
    partition costs the same, and blocks are returned.  The work is bounded by the size of the graph alone, and the
    result is deterministic for a seed.  Raises GraphError where there are no parts.
    """
    plain = block(graph, n_parts, seed=seed)
    if n_parts == 1 or all(isinstance(link, Complete) for link in graph.links):
        return plain
    nets, allowed = nets_of(graph), limits(graph, n_parts)
    group = packed(graph, n_parts)
    small = contracted(nets, group) if int(group.max(initial=-1)) + 1 < graph.n_units else nets
    if small is nets:
        group = np.arange(graph.n_units)
    lookups = int(np.clip(FOR_UNIT * graph.n_units, FEWEST, MOST) / (1 + len(small.nets) / CACHED))
    with ThreadPoolExecutor(WORKERS) as pool:

        def best_of(where: Nets, searches: list[Search], each: int) -> list[tuple[int, Search, Owner]]:
            """What the searches find, each with so many look-ups, the best first."""
            spent = each + EACH * len(where.nets)

            def run(search: Search) -> tuple[int, Search, Owner]:
                hot = search.heat * carried(where)
                found = improved(
                    where, search.start, n_parts, allowed, lookups=spent, hot=hot, seed=search.seed, near=search.near
                )
                return cost(where, found, n_parts), search, found

            return sorted(pool.map(run, searches), key=lambda one: one[0])

        starts = [repaired(small, one, n_parts, allowed) for one in _starts(graph, small, group, n_parts, seed, pool)]
        few = EACH * len(small.nets) * len(starts) * len(HEATS) > lookups  # a large network: no race
        searches = [Search(start, *how, seed) for start in starts for how in (HEATS[:1] if few else HEATS)]
        found = best_of(small, searches, lookups // 8 // len(searches))
        if not few:
            again = [search._replace(seed=seed + 1) for _, search, _ in found[:4]]
            found = sorted(found + best_of(small, again, lookups // 8 // 4), key=lambda one: one[0])
            share = lookups // 8 if small is not nets else lookups * 3 // 16
            found = sorted(found + best_of(small, _finalists(found, seed + 2), share), key=lambda one: one[0])
        ends = [found[0][2][group], found[min(1, len(found) - 1)][2][group]]
        last = (
            found[:1]
            if small is nets
            else best_of(
                nets, [Search(end, heat, True, seed) for end, heat in zip(ends, LAST, strict=True)], lookups // 8
            )
        )
    answers = [by_layers(last[0][2], graph, n_parts), plain, strided(graph, n_parts, seed=seed)]
    return min(answers, key=lambda one: (not feasible(graph, one), communication_volume(graph, one).total))


def _finalists(found: list[tuple[int, Search, Owner]], seed: int) -> list[Search]:
    """The two starts that did best, each as it did and as suits most networks when the search is long."""
    first = found[0][1]
    second = next((search for _, search, _ in found if search.start is not first.start), first)
    return [s for one in (first, second) for s in (one._replace(seed=seed), Search(one.start, *HEATS[0], seed + 1))]


def _starts(
    graph: UnitGraph, small: Nets, group: IntArray, n_parts: int, seed: int, pool: ThreadPoolExecutor
) -> list[Owner]:
    """Owners of groups, (n_groups,), by all methods that a search could start from."""
    allowed, alone = limits(graph, n_parts), np.arange(small.n_units)
    methods: list[Callable[..., Partition]] = [block, random] if graph.coordinates is None else [tiles, strips]
    if len(small.nets) < LARGE:
        methods.append(spectral)
    waiting = [pool.submit(assigned, small, n_parts, allowed, seed=seed)]
    rungs = ladder(small, alone, n_parts, allowed, seed=seed)
    if len(rungs[-1].nets.nets) < LARGE:
        waiting.append(pool.submit(climbed_down, rungs, n_parts, allowed, seed=seed, tries=1))
    found = [lifted(flat(method(graph, n_parts, seed=seed)), group) for method in methods]
    return found + [one.result() for one in waiting]
