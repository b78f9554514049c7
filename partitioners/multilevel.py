"""Annealing on groups of twins, from groups as heavy as a part down to single units.

Many searches on the coarsest groups are cheap, and which valley they end in is mostly luck: the best is refined.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from partitioners.annealing import Owner, improved
from partitioners.graph import UnitGraph
from partitioners.nets import Nets, by_layers, flat, limits, nets_of
from partitioners.partition import Partition, communication_volume, part_weights
from partitioners.repair import repaired
from partitioners.twins import contract

HEATS = (0.03, 0.08, 0.15, 0.3)  # temperatures at the start, in the states that the nets of a unit carry on average
FINER = 0.3  # of that on finer groups, which mend what coarser ones have found
ENTRIES = 300_000_000  # look-ups of nets that one search may take: about a second
MOST = 4_000_000  # proposals of one search, where units have few nets

Method = Callable[..., Partition]


def feasible(graph: UnitGraph, partition: Partition) -> bool:
    """Whether the heaviest part of every layer is within the layer's limit."""
    return bool((part_weights(graph, partition).max(axis=1) <= limits(graph, partition.n_parts)).all())


def refined(graph: UnitGraph, start: Partition, *, seed: int) -> Partition:
    """A partition of no more volume, repaired where it is not feasible: single units are moved and swapped."""
    allowed, nets = limits(graph, start.n_parts), nets_of(graph)
    owner = repaired(nets, flat(start), start.n_parts, allowed)
    owner = improved(
        nets,
        owner,
        start.n_parts,
        allowed,
        proposals=_proposals(nets),
        hot=FINER * HEATS[0] * _carried(nets),
        seed=seed,
    )
    return by_layers(owner, graph, start.n_parts)


def searched(graph: UnitGraph, n_parts: int, starts: Sequence[Method], *, seed: int, tries: int = 3) -> Partition:
    """The best of ``tries`` searches from each start at each temperature, refined on finer groups."""
    allowed = limits(graph, n_parts)
    owner: Owner | None = None
    for coarse, nets, group in _levels(graph, n_parts):
        if owner is None:
            found = [
                (start, heat, seed + i) for start in starts for heat in HEATS for i in range(tries)
            ]  # fmt: skip
            owners = [_one(coarse, nets, flat(start(coarse, n_parts, seed=s)), n_parts, allowed, heat, s)
                      for start, heat, s in found]  # fmt: skip
            here = min(owners, key=lambda one: _cost(coarse, nets, one, n_parts))
        else:
            here = _one(coarse, nets, _lifted(owner, group), n_parts, allowed, FINER * HEATS[1], seed)
        owner = here[group]
    assert owner is not None  # there is always the level of single units
    return by_layers(owner, graph, n_parts)


def _one(
    graph: UnitGraph, nets: Nets, owner: Owner, n_parts: int, allowed: np.ndarray, heat: float, seed: int
) -> Owner:
    owner = repaired(nets, owner, n_parts, allowed)
    return improved(nets, owner, n_parts, allowed, proposals=_proposals(nets), hot=heat * _carried(nets), seed=seed)


def _levels(graph: UnitGraph, n_parts: int) -> Iterator[tuple[UnitGraph, Nets, np.ndarray]]:
    """(groups as a graph, their nets, group of each unit), the coarsest first, single units last."""
    mean = min(int(graph.layer_weights(i).sum()) for i in range(len(graph.layers))) // n_parts
    sizes = {graph.n_units}
    for divisor in (1, 4):
        coarse, nets, group = contract(graph, max(1, mean // divisor))
        if coarse.n_units not in sizes:
            sizes.add(coarse.n_units)
            yield coarse, nets, group
    yield graph, nets_of(graph), np.arange(graph.n_units)


def _proposals(nets: Nets) -> int:
    """As many as fit the budget, more for few units that have few nets."""
    return int(np.clip(ENTRIES / max(1.0, 4 * np.diff(nets.starts).mean()), 200_000, 4_000_000).clip(max=MOST))


def _carried(nets: Nets) -> float:
    """States that the nets of a unit carry, on average."""
    if not len(nets.nets):
        return 0.0
    return float(nets.costs[nets.nets].mean() * np.diff(nets.starts).mean())


def _cost(graph: UnitGraph, nets: Nets, owner: Owner, n_parts: int) -> int:
    """States that travel, of groups at what they cost."""
    units = np.repeat(np.arange(nets.n_units), np.diff(nets.starts))
    reached = np.unique(nets.nets.astype(np.int64) * n_parts + owner[units])
    parts = np.bincount(reached // n_parts, minlength=len(nets.costs))
    return int((nets.costs * np.maximum(parts - 1, 0)).sum())


def _lifted(owner: Owner, group: np.ndarray) -> Owner:
    """Owners of groups: each has that of its first unit."""
    found = np.zeros(int(group.max(initial=-1)) + 1, np.int32)
    found[group[::-1]] = owner[::-1]
    return found


def volume(graph: UnitGraph, partition: Partition) -> int:
    """States that travel for one sample, in one pass up and one down of every RBM."""
    return communication_volume(graph, partition).total
