"""Twins: units of a layer with the same neighbours, which refinement moves as one."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from partitioners.graph import IntArray, Sparse, UnitGraph
from partitioners.nets import Nets, nets_of


class Contracted(NamedTuple):
    """graph: one unit for each group of twins; nets: of it, at what a group's states cost; group: (n_units,) of each"""

    graph: UnitGraph
    nets: Nets
    group: IntArray


def contract(graph: UnitGraph, largest: int, *, seed: int = 0) -> Contracted:
    """Groups of twins of equal weight, none heavier than ``largest`` unless it is a single unit.

    Neighbourhoods are compared by sums of random 64-bit numbers, so two different ones are taken for the same with a
    probability of about n_units^2 / 2^64.
    """
    group = _groups(graph, largest, seed)
    n_groups = int(group.max(initial=-1)) + 1
    sizes = np.bincount(group, minlength=n_groups)
    weights = np.bincount(group, graph.weights, minlength=n_groups).astype(np.int64)
    layer_of = np.zeros(n_groups, np.int64)
    layer_of[group] = np.repeat(np.arange(len(graph.layers)), graph.layers)
    layers = tuple(np.bincount(layer_of, minlength=len(graph.layers)).tolist())
    offsets = np.concatenate([[0], np.cumsum(layers)])
    links = []
    for i, link in enumerate(graph.links):
        lower, upper = link.edges()
        below, above = (
            group[lower + graph.offsets[i]] - offsets[i],
            group[upper + graph.offsets[i + 1]] - offsets[i + 1],
        )
        pairs = np.unique(below * layers[i + 1] + above)
        links.append(Sparse.from_edges(*np.divmod(pairs, max(layers[i + 1], 1)), layers[i], layers[i + 1]))
    places = None
    if graph.coordinates is not None:
        first = np.zeros(n_groups, np.int64)
        first[group[::-1]] = np.arange(graph.n_units)[::-1]
        every = np.concatenate(graph.coordinates)[first]
        places = tuple(np.split(every, offsets[1:-1]))
    small = UnitGraph(layers, tuple(links), weights, places)
    return Contracted(small, replace(nets_of(small), costs=np.repeat(sizes, 2)), group)


def _groups(graph: UnitGraph, largest: int, seed: int) -> IntArray:
    """(n_units,) group of each unit, counted layer after layer."""
    rng = np.random.default_rng(seed)
    names: npt.NDArray[np.uint64] = rng.integers(0, 1 << 64, graph.n_units, np.uint64)
    sums = np.zeros((graph.n_units, 2), np.uint64)
    for i, link in enumerate(graph.links):
        lower, upper = link.edges()
        lower, upper = lower + graph.offsets[i], upper + graph.offsets[i + 1]
        np.add.at(sums[:, 0], lower, names[upper])
        np.add.at(sums[:, 1], upper, names[lower])
    layer = np.repeat(np.arange(len(graph.layers)), graph.layers)
    order = np.lexsort((np.arange(graph.n_units), graph.weights, sums[:, 1], sums[:, 0], layer))
    keys = np.column_stack([layer, graph.weights, sums.view(np.int64)])[order]
    starts = np.concatenate([[True], (keys[1:] != keys[:-1]).any(axis=1)]) if len(order) else np.zeros(0, bool)
    run = np.cumsum(starts) - 1
    place = np.arange(len(order)) - np.flatnonzero(starts)[run] if len(order) else order
    at_once = np.maximum(1, largest // np.maximum(graph.weights[order], 1))
    pieces = np.concatenate([[True], (run[1:] != run[:-1]) | (place[1:] % at_once[1:] == 0)]) if len(order) else starts
    group = np.empty(graph.n_units, np.int64)
    group[order] = np.cumsum(pieces) - 1
    return group
