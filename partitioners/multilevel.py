"""A hierarchy of groups: the coarsest are partitioned, and the result is projected down and refined on every level.

Multilevel partitioning (Hendrickson and Leland 1995), here of hypergraphs (Catalyurek and Aykanat 1999) with a limit
for every layer, so units are grouped within their layers only.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from partitioners.annealing import improved
from partitioners.bisection import bisected
from partitioners.coarsening import companions, contracted, packed
from partitioners.graph import IntArray, UnitGraph
from partitioners.nets import Nets, Owner, by_layers, cost, limits, nets_of
from partitioners.partition import Partition, partitioner
from partitioners.refinement import mean_unit_cost
from partitioners.repair import repaired

SMALLEST = 24  # groups for a part and layer, on the coarsest level
SHRUNK, WORTH = 0.85, 1_000_000  # a level has at most this fraction of the finer one's entries, or this many
TRIES = 4  # searches on the coarsest level, from random starts
HEAT = 0.1  # temperature at the start of these, in the states that the nets of a group carry on average
FINER = 0.02  # the same on finer levels, which refine a partition
LOOKUPS = 40_000_000  # of nets, for one search on one level ...
EACH = 6  # ... and for every entry of its nets


class Level(NamedTuple):
    """One level of the hierarchy: the nets of its groups, and the group of every unit of the next finer level."""

    nets: Nets
    group: IntArray


@partitioner
def multilevel(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """A search on groups of companions, with refinement down to single units.  Deterministic for a seed.

    Raises GraphError where there are no parts.
    """
    nets, allowed = nets_of(graph), limits(graph, n_parts)
    levels = hierarchy(nets, packed(graph, n_parts), n_parts, allowed, seed=seed)
    return by_layers(refined_down(levels, n_parts, allowed, seed=seed), graph, n_parts)


def refined_down(levels: list[Level], n_parts: int, allowed: IntArray, *, seed: int, tries: int = TRIES) -> Owner:
    """Owners of all units, (n_units,): searched on the coarsest level, and refined down to the finest."""
    top = levels[-1].nets
    with ThreadPoolExecutor(2) as pool:
        candidates = list(pool.map(lambda i: _searched(top, n_parts, allowed, seed + i), range(tries)))
    owner = min(candidates, key=lambda one: cost(top, one, n_parts))
    for finer, coarser in zip(levels[-2::-1], levels[:0:-1], strict=True):
        owner = owner[coarser.group]
        owner = repaired(finer.nets, owner, n_parts, allowed)
        owner = _annealed(finer.nets, owner, n_parts, allowed, FINER, seed)
    return owner


def hierarchy(nets: Nets, group: IntArray, n_parts: int, allowed: IntArray, *, seed: int) -> list[Level]:
    """All levels, single units first; ``group`` keeps units together, see ``twins``."""
    levels = [Level(nets, np.arange(nets.n_units))]
    if int(group.max(initial=-1)) + 1 < nets.n_units:
        levels.append(Level(contracted(nets, group), group))
    n_layers = len(allowed)
    heaviest = max(1, int(allowed.min()) // SMALLEST * 2)
    while levels[-1].nets.n_units > SMALLEST * n_parts * n_layers:
        finer = levels[-1].nets
        pairs = companions(finer, heaviest, seed=seed)
        if pairs.max() + 1 > 0.95 * finer.n_units:
            break  # few units have a companion that is light enough
        coarser = contracted(finer, pairs)
        if len(coarser.nets) > max(SHRUNK * len(finer.nets), WORTH):
            break  # companions share too few nets, as in random masks
        levels.append(Level(coarser, pairs))
    return levels


def _searched(nets: Nets, n_parts: int, allowed: IntArray, seed: int) -> Owner:
    owner = bisected(nets, n_parts, allowed, seed=seed)
    return _annealed(nets, repaired(nets, owner, n_parts, allowed), n_parts, allowed, HEAT, seed)


def _annealed(nets: Nets, owner: Owner, n_parts: int, allowed: IntArray, heat: float, seed: int) -> Owner:
    lookups = LOOKUPS + EACH * len(nets.nets)
    return improved(nets, owner, n_parts, allowed, lookups=lookups, hot=heat * mean_unit_cost(nets), seed=seed)
