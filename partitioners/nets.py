"""The nets of a unit graph, and the balance that every layer must keep: what refinement works on.

A unit and all units of a neighbouring layer that need its state are a net; each unit has one net up and one down, where
it has neighbours there.  The parts of a net's units, less one, is how often the unit's state travels (Catalyurek and
Aykanat 1999): connectivity minus one, summed over nets, is the communication volume.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from partitioners.graph import IntArray, UnitGraph
from partitioners.partition import Partition

ALLOWED = 1.03  # of a layer's mean part


@dataclass(frozen=True)
class Nets:
    """Nets in CSR from units to nets: unit u is in nets ``nets[starts[u]:starts[u + 1]]``.

    costs    (n_nets,) how many states travel along a net
    layer    (n_units,) of each unit
    weights  (n_units,) of each unit
    """

    starts: IntArray
    nets: npt.NDArray[np.int32]
    costs: IntArray
    layer: IntArray
    weights: IntArray

    @property
    def n_units(self) -> int:
        return len(self.layer)


def nets_of(graph: UnitGraph) -> Nets:
    """All nets of a graph; net 2 u is that of unit u upwards, net 2 u + 1 that downwards."""
    units, nets = [], []
    for link, low, high in zip(graph.links, graph.offsets, graph.offsets[1:], strict=False):
        lower, upper = link.edges()
        lower, upper = lower + low, upper + high
        units += [upper, lower]
        nets += [2 * lower, 2 * upper + 1]
        sources = np.unique(lower), np.unique(upper)  # a unit without neighbours sends nothing
        units += list(sources)
        nets += [2 * sources[0], 2 * sources[1] + 1]
    everyone = np.concatenate(units) if units else np.zeros(0, np.int64)
    order = np.argsort(everyone, kind="stable")
    counts = np.bincount(everyone, minlength=graph.n_units)
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    return Nets(
        np.concatenate([[0], np.cumsum(counts)]),
        (np.concatenate(nets) if nets else np.zeros(0, np.int64))[order].astype(np.int32),
        np.ones(2 * graph.n_units, np.int64),
        layer,
        np.asarray(graph.weights, np.int64),
    )


def limits(graph: UnitGraph, n_parts: int) -> IntArray:
    """(n_layers,) what the heaviest part of each layer may weigh.

    1.03 times the mean part, or what placing the heaviest units first on the lightest parts gives (LPT, Graham 1969),
    where units are too heavy for that.
    """
    found = []
    for i in range(len(graph.layers)):
        weights = np.sort(graph.layer_weights(i))[::-1]
        found.append(max(int(ALLOWED * weights.sum() / n_parts), _lpt(weights, n_parts)))
    return np.array(found, np.int64)


def _lpt(weights: IntArray, n_parts: int) -> int:
    if len(weights) and weights[0] == weights[-1]:
        return int(-(-len(weights) // n_parts) * weights[0])
    import heapq

    parts = [0] * n_parts
    for weight in weights.tolist():
        heapq.heapreplace(parts, parts[0] + weight)
    return max(parts)


def flat(partition: Partition) -> npt.NDArray[np.int32]:
    """(n_units,) the parts of all units, layer after layer."""
    return np.concatenate(partition.owners).astype(np.int32)


def by_layers(owner: npt.NDArray[np.int32], graph: UnitGraph, n_parts: int) -> Partition:
    pieces = np.split(owner.astype(np.int64), graph.offsets[1:-1])
    return Partition(tuple(pieces), n_parts)
