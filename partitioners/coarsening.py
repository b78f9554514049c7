"""Groups of units that move as one: twins, and units that share many nets.

A search on groups reaches further, and costs less.  Groups of groups form a hierarchy of levels, down which a partition
is projected and refined (multilevel: Hendrickson and Leland 1995; by hypergraph, Catalyurek and Aykanat 1999).
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from partitioners.compilation import njit
from partitioners.graph import Complete, IntArray, UnitGraph, sums_of
from partitioners.links import offsets_of
from partitioners.nets import Nets, lightest_first, limits, transposed

INSPECTED = 3000  # most pins that are inspected for the best companion of a unit


def twins(graph: UnitGraph, largest: npt.ArrayLike, *, seed: int = 0) -> IntArray:
    """The group of each unit, (n_units,): units of a layer with the same neighbours and weight.

    No group is heavier than ``largest``, one for each layer or for all, unless it is a single unit.  Neighbourhoods are
    compared by sums of random 64-bit numbers, so that two different ones are confused with a probability of about
    n_units^2 / 2^64.
    """
    sums, names = np.zeros((graph.n_units, 2), np.uint64), _names(graph.n_units, seed)
    for i, link in enumerate(graph.links):
        if isinstance(link, Complete):
            continue
        lower, upper = (slice(*graph.offsets[j : j + 2]) for j in (i, i + 1))
        _add_names(link.offsets, link.neighbours, names[lower], names[upper], sums[lower, 0], sums[upper, 1])
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    order = np.lexsort((np.arange(graph.n_units), graph.weights, sums[:, 1], sums[:, 0], layer))
    keys = np.column_stack([layer, graph.weights, sums.view(np.int64)])[order]
    starts = np.ones(len(order), bool)
    starts[1:] = (keys[1:] != keys[:-1]).any(axis=1)
    run = np.cumsum(starts) - 1
    position = np.arange(len(order)) - np.flatnonzero(starts)[run]
    most = np.broadcast_to(np.asarray(largest, np.int64), len(graph.layers))[layer]
    at_once = np.maximum(1, most // np.maximum(graph.weights, 1))[order]
    pieces = starts | (position % at_once == 0)
    group = np.empty(graph.n_units, np.int64)
    group[order] = np.cumsum(pieces) - 1
    return group


def packed(graph: UnitGraph, n_parts: int, *, seed: int = 0) -> IntArray:
    """The group of each unit, (n_units,): twins in groups as heavy as the parts of every layer can take.

    Limits tried are the mean part of each layer, its half, quarter and twelfth; else every unit is its own group.
    """
    allowed = limits(graph, n_parts)
    mean = np.array([graph.layer_weights(i).sum() for i in range(len(graph.layers))], np.int64) // n_parts
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    for divisor in (1, 2, 4, 12):
        group = twins(graph, mean // divisor, seed=seed)
        n_groups = int(group.max(initial=-1)) + 1
        weights, group_layer = sums_of(group, graph.weights, n_groups), np.zeros(n_groups, int)
        group_layer[group] = layer
        if all(
            lightest_first(np.sort(weights[group_layer == i])[::-1], n_parts) <= most for i, most in enumerate(allowed)
        ):
            return group
    return np.arange(graph.n_units)


def companions(nets: Nets, largest: int, *, seed: int = 0) -> IntArray:
    """The group of each unit, (n_units,): pairs of a layer that share the most nets, small ones with more weight.

    Of the units with which it shares a net, a unit is paired with that of the largest sum of cost / (size - 1) over the
    shared nets (heavy connectivity); no pair is heavier than ``largest``.
    """
    order = np.random.default_rng(seed).permutation(nets.n_units)
    mate = _mates(nets.starts, nets.nets, *nets.pins, nets.costs, nets.layer, nets.weights, order, largest)
    first = np.minimum(mate, np.arange(nets.n_units))
    return np.cumsum(first == np.arange(nets.n_units))[first] - 1


def contracted(nets: Nets, group: IntArray) -> Nets:
    """The nets of groups; groups are numbered layer by layer, as units are.

    Nets that reach the same groups become one of their total cost; nets within a group always cost nothing, and are
    left out.
    """
    n_groups = int(group.max(initial=-1)) + 1
    weights = sums_of(group, nets.weights, n_groups)
    layer = np.zeros(n_groups, np.int64)
    layer[group] = nets.layer
    members = transposed(np.arange(nets.n_units + 1), group, n_groups)
    starts, entries = _united(nets.starts, nets.nets, *members, len(nets.costs))
    sums, sizes = _contents(starts, entries, len(nets.costs), _names(n_groups, 1))
    kept = np.flatnonzero(sizes > 1)
    _, first, same = np.unique(sums[kept], return_index=True, return_inverse=True)
    costs = np.bincount(same, nets.costs[kept], minlength=len(first)).astype(np.int64)
    renamed = np.full(len(nets.costs), -1, np.int64)
    renamed[kept[first]] = np.arange(len(first))
    names = renamed[entries]
    counts = offsets_of(names >= 0)[starts]
    return Nets(counts, names[names >= 0].astype(np.int32), costs, layer, weights)


def lifted(owner: npt.NDArray[np.int32], group: IntArray) -> npt.NDArray[np.int32]:
    """Owners of groups, (n_groups,): that of the first unit of each."""
    owners = np.zeros(int(group.max(initial=-1)) + 1, np.int32)
    owners[group[::-1]] = owner[::-1]
    return owners


def _names(n: int, seed: int) -> npt.NDArray[np.uint64]:
    names: npt.NDArray[np.uint64] = np.random.default_rng(seed).integers(0, 1 << 64, n, np.uint64)
    return names


@njit(nogil=True)
def _add_names(offsets, neighbours, lower_names, upper_names, lower_sums, upper_sums):  # type: ignore[no-untyped-def]
    for lower in range(len(offsets) - 1):
        for i in range(offsets[lower], offsets[lower + 1]):
            lower_sums[lower] += upper_names[neighbours[i]]
            upper_sums[neighbours[i]] += lower_names[lower]


@njit(nogil=True)
def _mates(starts, nets, offsets, units, costs, layer, weights, order, largest):  # type: ignore[no-untyped-def]
    n_units = len(starts) - 1
    mate = np.arange(n_units)
    taken = np.zeros(n_units, np.bool_)
    rating = np.zeros(n_units, np.float64)
    seen = np.empty(n_units, np.int64)
    for unit in order:
        if taken[unit]:
            continue
        n_seen, inspected = 0, 0
        for i in range(starts[unit], starts[unit + 1]):
            net = nets[i]
            size = offsets[net + 1] - offsets[net]
            inspected += size
            if inspected > INSPECTED and n_seen > 0:
                break
            score = costs[net] / (size - 1.0) if size > 1 else 0.0
            for j in range(offsets[net], offsets[net + 1]):
                other = units[j]
                if other == unit or taken[other] or layer[other] != layer[unit]:
                    continue
                if weights[unit] + weights[other] > largest:
                    continue
                if rating[other] == 0.0:
                    seen[n_seen] = other
                    n_seen += 1
                rating[other] += score
        best: Any = np.int64(-1)
        for i in range(n_seen):
            if best < 0 or rating[seen[i]] > rating[best]:
                best = seen[i]
        for i in range(n_seen):
            rating[seen[i]] = 0.0
        if best >= 0:
            taken[unit], taken[best] = True, True
            mate[unit], mate[best] = best, unit
    return mate


@njit(nogil=True)
def _united(starts, nets, member_offsets, members, n_nets):  # type: ignore[no-untyped-def]
    """CSR from groups to the nets of their units, each once."""
    n_groups = len(member_offsets) - 1
    united = np.empty(len(nets), np.int32)
    firsts = np.zeros(n_groups + 1, np.int64)
    seen = np.full(n_nets, -1, np.int64)
    filled = 0
    for group in range(n_groups):
        for m in range(member_offsets[group], member_offsets[group + 1]):
            unit = members[m]
            for i in range(starts[unit], starts[unit + 1]):
                if seen[nets[i]] != group:
                    seen[nets[i]] = group
                    united[filled] = nets[i]
                    filled += 1
        firsts[group + 1] = filled
    return firsts, united[:filled].copy()


@njit(nogil=True)
def _contents(starts, nets, n_nets, names):  # type: ignore[no-untyped-def]
    """(n_nets,) sums of the names of the groups that a net reaches, and (n_nets,) the numbers of these groups."""
    sums, sizes = np.zeros(n_nets, np.uint64), np.zeros(n_nets, np.int64)
    for group in range(len(starts) - 1):
        for i in range(starts[group], starts[group + 1]):
            sums[nets[i]] += names[group]
            sizes[nets[i]] += 1
    return sums, sizes
