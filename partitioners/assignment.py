"""Layer-to-layer assignment: given the owners of one layer, those of the next by a linear assignment problem.

The cost of a unit of the next layer at a part is known once the layer below has owners: its state travels unless the
part owns all its neighbours, and their states travel to the part unless it owns them.  Each part has as many slots as
it may own units, so a chunk of units is assigned to slots at once, at the least sum of costs (Crouse 2016, in scipy).
"""

from __future__ import annotations

import numpy as np

from partitioners.block import block_owners
from partitioners.coarsening import contracted, packed
from partitioners.compilation import njit
from partitioners.graph import IntArray, UnitGraph
from partitioners.nets import Nets, Owner, by_layers, cost, limits, nets_of
from partitioners.partition import Partition, partitioner
from partitioners.repair import repaired

CHUNK = 256  # units assigned at once, or as many as there are parts: the problem grows with the cube
SWEEPS = 3  # up and down, each layer given all others


@partitioner
def assignment(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> Partition:
    """Blocks of the visible layer, then sweeps up and down over the layers; twins are assigned as one.

    Deterministic for a seed, which orders the units.  Raises GraphError where there are no parts.
    """
    allowed, nets = limits(graph, n_parts), nets_of(graph)
    group = packed(graph, n_parts)
    owner = assigned(contracted(nets, group), n_parts, allowed, seed=seed)[group]
    return by_layers(repaired(nets, owner, n_parts, allowed), graph, n_parts)


def assigned(nets: Nets, n_parts: int, allowed: IntArray, *, seed: int, sweeps: int = SWEEPS) -> Owner:
    """Owners of groups, (n_units,): the best of ``sweeps`` up and as many down."""
    rng = np.random.default_rng(seed)
    layers = [np.flatnonzero(nets.layer == layer) for layer in range(len(allowed))]
    owner = np.full(nets.n_units, -1, np.int32)
    owner[layers[0]] = block_owners(nets.weights[layers[0]], n_parts)
    best, least = owner, None
    for sweep in range(2 * sweeps):
        order = layers[1:] if sweep % 2 == 0 else layers[-2::-1]
        for units in order:
            owner[units] = -1
            _assign(nets, owner, rng.permutation(units), n_parts)
        candidate = repaired(nets, owner, n_parts, allowed)
        volume = cost(nets, candidate, n_parts)
        if least is None or volume < least:
            best, least = candidate, volume
    return best


def _assign(nets: Nets, owner: Owner, units: IntArray, n_parts: int) -> None:
    """Give owners to these units of one layer, chunk by chunk."""
    from scipy.optimize import linear_sum_assignment  # a quarter of a second, and few who import this need it

    size = n_parts * max(1, CHUNK // n_parts)
    counts = np.zeros((len(nets.costs), n_parts), np.int32)
    _count_some(nets.starts, nets.nets, np.flatnonzero(owner >= 0), owner, counts)
    for start in range(0, len(units), size):
        chunk = units[start : start + size]
        prices = _prices(nets.starts, nets.nets, nets.costs, chunk, counts)
        slots = np.tile(np.arange(n_parts), -(-len(chunk) // n_parts))  # (slots,) the part of each
        rows, columns = linear_sum_assignment(prices[:, slots])
        owner[chunk[rows]] = slots[columns]
        _count_some(nets.starts, nets.nets, chunk, owner, counts)


@njit(nogil=True)
def _count_some(starts, nets, units, owner, counts):  # type: ignore[no-untyped-def]
    for unit in units:
        for i in range(starts[unit], starts[unit + 1]):
            counts[nets[i], owner[unit]] += 1


@njit(nogil=True)
def _prices(starts, nets, costs, units, counts):  # type: ignore[no-untyped-def]
    """(units, n_parts) states that travel in addition when a unit goes to a part, given the owners so far."""
    prices = np.zeros((len(units), counts.shape[1]), np.int64)
    for row in range(len(units)):
        for i in range(starts[units[row]], starts[units[row] + 1]):
            for part in range(counts.shape[1]):
                if counts[nets[i], part] == 0:
                    prices[row, part] += costs[nets[i]]
    return prices
