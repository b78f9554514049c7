"""The nets of a unit graph, and the limits of every layer: the input of refinement.

A unit and all units of a neighbouring layer that need its state are a net; each unit has one net up and one down, where
it has neighbours there.  A unit's state travels as often as its net has parts, less one (Catalyurek and Aykanat 1999):
connectivity minus one, summed over nets, is the communication volume.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from partitioners.arguments import LARGEST, integers, parts_of
from partitioners.compilation import njit
from partitioners.graph import Complete, GraphError, IntArray, UnitGraph
from partitioners.partition import Partition

ALLOWED = 1.03  # limit of a part, relative to a layer's mean part

Owner = npt.NDArray[np.int32]  # (n_units,) the parts of all units, layer after layer


@dataclass(frozen=True)
class Nets:
    """Nets in CSR from units to nets: unit u is in nets ``nets[starts[u]:starts[u + 1]]``.

    costs    (n_nets,) how many states travel along a net
    layer    (n_units,) layers of units, ascending
    weights  (n_units,) weights of units
    """

    starts: IntArray
    nets: npt.NDArray[np.int32]
    costs: IntArray
    layer: IntArray
    weights: IntArray

    @property
    def n_units(self) -> int:
        return len(self.layer)

    @cached_property
    def pins(self) -> tuple[IntArray, npt.NDArray[np.int32]]:
        """(offsets, units): net n has the units ``units[offsets[n]:offsets[n + 1]]``, ascending."""
        return transposed(self.starts, self.nets, len(self.costs))


def nets_of(graph: UnitGraph) -> Nets:
    """The nets of all links that are not complete: link by link those of its lower units, then of its upper ones.

    Where every lower unit is connected with every upper one, all balanced partitions cost the same: no nets are needed.
    A unit without neighbours sends nothing and has no net.
    """
    counts = np.zeros(graph.n_units + 1, np.int64)
    pieces: list[tuple[IntArray, IntArray, int, int, IntArray]] = []
    n_nets = 0
    for i, link in enumerate(graph.links):
        if isinstance(link, Complete):
            continue
        for nets, sender, receiver in ((link.up, i, i + 1), (link.down, i + 1, i)):
            sending = np.diff(nets.offsets) > 0
            names = n_nets + np.cumsum(sending) - 1
            n_nets += int(sending.sum())
            first, other = int(graph.offsets[sender]), int(graph.offsets[receiver])
            counts[first + 1 : first + 1 + graph.layers[sender]] += sending
            counts[other + 1 : other + 1 + graph.layers[receiver]] += np.bincount(
                nets.neighbours, minlength=graph.layers[receiver]
            )
            pieces.append((nets.offsets, nets.neighbours, first, other, names))
    starts = np.cumsum(counts)
    entries, filled = np.empty(starts[-1], np.int32), starts[:-1].copy()
    for offsets, neighbours, first, other, names in pieces:
        _enter(offsets, neighbours, first, other, names, filled, entries)
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    return Nets(starts, entries, np.ones(n_nets, np.int64), layer, np.asarray(graph.weights, np.int64))


@njit(nogil=True)
def _enter(offsets, neighbours, first, other, names, filled, entries):  # type: ignore[no-untyped-def]
    """Enter the net of each sending unit with the unit itself and with its neighbours."""
    for unit in range(len(offsets) - 1):
        if offsets[unit] == offsets[unit + 1]:
            continue
        entries[filled[first + unit]] = names[unit]
        filled[first + unit] += 1
        for i in range(offsets[unit], offsets[unit + 1]):
            pin = other + neighbours[i]
            entries[filled[pin]] = names[unit]
            filled[pin] += 1


@njit(nogil=True)
def transposed(starts, items, n_items):  # type: ignore[no-untyped-def]
    """CSR from rows to items -> (offsets (n_items + 1,), rows of each item, ascending)."""
    offsets = np.zeros(n_items + 1, np.int64)
    for item in items:
        offsets[item + 1] += 1
    for i in range(n_items):
        offsets[i + 1] += offsets[i]
    filled = offsets[:-1].copy()
    rows = np.empty(len(items), np.int32)
    for row in range(len(starts) - 1):
        for i in range(starts[row], starts[row + 1]):
            rows[filled[items[i]]] = row
            filled[items[i]] += 1
    return offsets, rows


def owned_by(nets: Nets, owner: Owner, n_parts: int) -> Owner:
    """The owners of all units, in the type of searches.  Raises GraphError where one is not a part."""
    owners = integers("owners", owner, nets.n_units)
    if len(owners) and (owners.min() < 0 or owners.max() >= n_parts):
        raise GraphError(f"owners are {owners.min()} to {owners.max()}, but the parts are 0 to {n_parts - 1}")
    return owners.astype(np.int32)


def cost(nets: Nets, owner: Owner, n_parts: int) -> int:
    """States that travel: the cost of each net, times the parts that it reaches less one."""
    offsets, units = nets.pins
    return int(_cost(offsets, units, nets.costs, owner, n_parts))


@njit(nogil=True)
def _cost(offsets, units, costs, owner, n_parts):  # type: ignore[no-untyped-def]
    seen = np.full(n_parts, -1, np.int64)
    total = 0
    for net in range(len(costs)):
        for i in range(offsets[net], offsets[net + 1]):
            part = owner[units[i]]
            if seen[part] != net:
                seen[part] = net
                total += costs[net]
        if offsets[net] < offsets[net + 1]:
            total -= costs[net]
    return total


def least_cost(nets: Nets, allowed: IntArray) -> int:
    """A lower bound of :func:`cost`: a net reaches as many parts as its units of one layer fill.

    allowed  (n_layers,) the largest weight of a part
    """
    n_layers = len(allowed)
    names = nets.nets.astype(np.int64) * n_layers + np.repeat(nets.layer, np.diff(nets.starts))
    weights = np.zeros(len(nets.costs) * n_layers, np.int64)
    np.add.at(weights, names, np.repeat(nets.weights, np.diff(nets.starts)))
    parts = -(-weights.reshape(-1, n_layers) // np.maximum(allowed, 1))
    return int((nets.costs * np.maximum(parts.max(axis=1, initial=1) - 1, 0)).sum())


def loads(nets: Nets, owner: Owner, n_parts: int, n_layers: int) -> IntArray:
    """(n_layers, n_parts) the weight of each part in each layer; layers may have no units in these nets."""
    weights = np.zeros((n_layers, n_parts), np.int64)
    np.add.at(weights, (nets.layer, owner), nets.weights)
    return weights


def limits(graph: UnitGraph, n_parts: int) -> IntArray:
    """(n_layers,) the largest weight that a part of each layer may have.

    1.03 times the mean part, or the heaviest part after assigning the heaviest units first to the lightest parts (LPT,
    Graham 1969), where units are too heavy for that.  Raises GraphError where there are no parts.
    """
    n_parts, allowed = parts_of(n_parts), []
    for i in range(len(graph.layers)):
        weights = np.sort(graph.layer_weights(i))[::-1]
        most = max(int(ALLOWED * weights.sum() / n_parts), lightest_first(weights, n_parts))
        allowed.append(min(most, LARGEST))
    return np.array(allowed, np.int64)


def for_each(allowed: IntArray, n_parts: int) -> IntArray:
    """(n_layers, n_parts) the limit of each part in each layer, from these or from (n_layers,) limits for all parts."""
    return np.array(np.broadcast_to(allowed.reshape(len(allowed), -1), (len(allowed), n_parts)))  # writable: one type


def lightest_first(weights: IntArray, n_parts: int) -> int:
    """The weight of the heaviest part when units, the heaviest first, each go to the part that is lightest so far."""
    if len(weights) and weights[0] == weights[-1]:
        return int(-(-len(weights) // n_parts) * weights[0])
    parts = [0] * min(n_parts, max(1, len(weights)))  # further ones stay empty
    for weight in weights.tolist():
        heapq.heapreplace(parts, parts[0] + weight)
    return max(parts)


def flat(partition: Partition) -> Owner:
    """(n_units,) the parts of all units, layer by layer."""
    return np.concatenate(partition.owners).astype(np.int32)


def by_layers(owner: Owner, graph: UnitGraph, n_parts: int) -> Partition:
    """The owners as a partition: one array a layer."""
    pieces = np.split(owner.astype(np.int64), graph.offsets[1:-1])
    return Partition(tuple(pieces), n_parts)
