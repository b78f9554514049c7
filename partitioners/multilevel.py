"""A ladder of groups: a partition of the coarsest is searched for, carried down, and refined on every rung.

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
from partitioners.refinement import carried
from partitioners.repair import repaired

SMALLEST = 24  # groups for a part and layer, on the coarsest rung
SHRUNK, WORTH = 0.85, 1_000_000  # a rung must have so much fewer entries than the finer one, or few
TRIES = 4  # searches there, from random starts
HEAT = 0.1  # temperature at the start of these, in the states that the nets of a group carry on average
FINER = 0.02  # the same on finer rungs, which mend what coarser ones have found
LOOKUPS = 40_000_000  # of nets, for one search on one rung ...
EACH = 6  # ... and for every entry of its nets


class Rung(NamedTuple):
    """One level of the ladder: nets of its groups, and which of them every unit of the next finer level is in."""

    nets: Nets
    group: IntArray


@partitioner
def multilevel(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Search on groups of companions, refinement down to single units.  Deterministic for a seed.

    Raises GraphError where there are no parts.
    """
    nets, allowed = nets_of(graph), limits(graph, n_parts)
    rungs = ladder(nets, packed(graph, n_parts), n_parts, allowed, seed=seed)
    return by_layers(climbed_down(rungs, n_parts, allowed, seed=seed), graph, n_parts)


def climbed_down(rungs: list[Rung], n_parts: int, allowed: IntArray, *, seed: int, tries: int = TRIES) -> Owner:
    """Owners of all units, (n_units,): searched for on the last rung, and refined down to the first."""
    top = rungs[-1].nets
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda i: _searched(top, n_parts, allowed, seed + i), range(tries)))
    owner = min(found, key=lambda one: cost(top, one, n_parts))
    for finer, coarser in zip(rungs[-2::-1], rungs[:0:-1], strict=True):
        owner = owner[coarser.group]
        owner = repaired(finer.nets, owner, n_parts, allowed)
        owner = _annealed(finer.nets, owner, n_parts, allowed, FINER, seed)
    return owner


def ladder(nets: Nets, group: IntArray, n_parts: int, allowed: IntArray, *, seed: int) -> list[Rung]:
    """All levels, single units first; ``group`` are units that stay together, see ``twins``."""
    rungs = [Rung(nets, np.arange(nets.n_units))]
    if int(group.max(initial=-1)) + 1 < nets.n_units:
        rungs.append(Rung(contracted(nets, group), group))
    n_layers = len(allowed)
    heaviest = max(1, int(allowed.min()) // SMALLEST * 2)
    while rungs[-1].nets.n_units > SMALLEST * n_parts * n_layers:
        finer = rungs[-1].nets
        pairs = companions(finer, heaviest, seed=seed)
        if pairs.max() + 1 > 0.95 * finer.n_units:
            break  # few have a companion that is light enough
        coarser = contracted(finer, pairs)
        if len(coarser.nets) > max(SHRUNK * len(finer.nets), WORTH):
            break  # companions share so little that nothing is gained, as in random masks
        rungs.append(Rung(coarser, pairs))
    return rungs


def _searched(nets: Nets, n_parts: int, allowed: IntArray, seed: int) -> Owner:
    owner = bisected(nets, n_parts, allowed, seed=seed)
    return _annealed(nets, repaired(nets, owner, n_parts, allowed), n_parts, allowed, HEAT, seed)


def _annealed(nets: Nets, owner: Owner, n_parts: int, allowed: IntArray, heat: float, seed: int) -> Owner:
    return improved(
        nets, owner, n_parts, allowed, lookups=LOOKUPS + EACH * len(nets.nets), hot=heat * carried(nets), seed=seed
    )
