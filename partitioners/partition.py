"""The result of every method, and the measures by which methods are compared."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, NamedTuple, TypeVar, cast

import numpy as np
import numpy.typing as npt

from partitioners.arguments import integers, parts_of, seed_of, shown
from partitioners.cards import by_layer, card, counted, owners_chart, spread
from partitioners.compilation import njit
from partitioners.graph import Complete, GraphError, IntArray, Links, UnitGraph
from partitioners.page import table
from partitioners.reading import check_room


class Partition(NamedTuple):
    """The owner of each unit: all that a partitioner passes to whatever trains the network."""

    owners: tuple[IntArray, ...]  # for each layer (n_units of the layer,) the part of every unit
    n_parts: int

    def _repr_html_(self) -> str:
        """For notebooks: how many units of every layer each part owns.  Raises GraphError where it is no partition."""
        owners, n_parts = plain(self)
        rows = [[str(i), f"{len(owner):,}", spread(counted(owner, n_parts))] for i, owner in enumerate(owners)]
        heads = ("layer", "units", "of a part")
        chart = owners_chart(by_layer(owners), n_parts, "part")
        return card(f"Partition: {n_parts:,} part(s)", table(heads, rows, numbers=(1, 2)), chart)


class Volume(NamedTuple):
    """Values sent between parts for one sample, for each pair of neighbouring layers."""

    up: IntArray  # (n_layers - 1,) values of lower units sent to parts that own upper neighbours
    down: IntArray  # (n_layers - 1,) values of upper units sent to parts that own lower neighbours

    @property
    def total(self) -> int:
        return int(self.up.sum() + self.down.sum())


class Measures(NamedTuple):
    """All measures of one partition."""

    imbalance: npt.NDArray[np.float64]
    volume: Volume
    edge_cut: int


M = TypeVar("M", bound=Callable[..., Partition])


def partitioner(method: M) -> M:
    """A method with checks of its arguments, which may be integers of any type.

    Raises GraphError without parts, with a negative seed, and where memory does not suffice.
    """

    @wraps(method)
    def checked(graph: UnitGraph, n_parts: int, *, seed: int = 0, **more: Any) -> Partition:
        check_graph(graph)
        n_parts, seed = parts_of(n_parts), seed_of(seed)
        try:
            return method(graph, n_parts, seed=seed, **more)
        except MemoryError:
            raise GraphError(f"there is not enough memory for {graph.n_units} units on {n_parts} parts") from None

    return cast(M, checked)


def check_graph(graph: UnitGraph) -> None:
    """Raise GraphError for anything but a unit graph."""
    if not isinstance(graph, UnitGraph):
        raise GraphError(f"the graph is {shown(graph)}, but must be a UnitGraph")


def each_layer(graph: UnitGraph, n_parts: int, owners: Callable[[IntArray, int], IntArray]) -> Partition:
    """The partition with ``owners(weights of the layer's units, n_parts)`` in every layer."""
    return Partition(tuple(owners(graph.layer_weights(i), n_parts) for i in range(len(graph.layers))), n_parts)


def measure(graph: UnitGraph, partition: Partition) -> Measures:
    """All measures of a partition.  Raises GraphError where it does not fit the graph."""
    return Measures(imbalance(graph, partition), communication_volume(graph, partition), edge_cut(graph, partition))


def plain(partition: Partition) -> Partition:
    """The partition with plain integers.  Raises GraphError unless every owner is one of the parts."""
    try:
        owners, n_parts = partition
        given = list(owners)
    except (TypeError, ValueError):
        raise GraphError(f"the partition is {shown(partition)}, but must be owners of layers, and n_parts") from None
    n_parts = parts_of(n_parts)
    checked = tuple(integers(f"owners of layer {layer}", owner) for layer, owner in enumerate(given))
    for layer, owner in enumerate(checked):
        if owner.size and (owner.min() < 0 or owner.max() >= n_parts):
            wrong = int(owner.min() if owner.min() < 0 else owner.max())
            raise GraphError(f"a unit of layer {layer} is owned by part {wrong}, but the parts are 0 to {n_parts - 1}")
    return Partition(checked, n_parts)


def check(graph: UnitGraph, partition: Partition) -> Partition:
    """The partition with plain integers.  Raises GraphError unless every unit of the graph has one of its parts."""
    check_graph(graph)
    checked = plain(partition)
    sizes = tuple(len(owner) for owner in checked.owners)
    if sizes != graph.layers:
        raise GraphError(f"the partition has layers of {sizes} units, but the graph has {graph.layers}")
    return checked


def empty_parts(partition: Partition) -> IntArray:
    """(n_layers,) how many parts own no unit of a layer, and wait while others compute."""
    return np.array([partition.n_parts - len(np.unique(owner)) for owner in partition.owners], np.int64)


def compact(partition: Partition) -> Partition:
    """The partition without empty parts, where it has more parts than units: matrices of traffic are n_parts^2."""
    if partition.n_parts <= sum(len(owner) for owner in partition.owners):
        return partition
    used, names = np.unique(np.concatenate(partition.owners), return_inverse=True)
    ends = np.cumsum([len(owner) for owner in partition.owners])[:-1]
    return Partition(tuple(np.split(names.astype(np.int64), ends)), max(1, len(used)))


def part_weights(graph: UnitGraph, partition: Partition) -> IntArray:
    """(n_layers, n_parts) the weight of each part in each layer."""
    partition = check(graph, partition)
    check_room("the matrix of all layers and parts", 3 * 8 * len(graph.layers) * partition.n_parts)
    weights = np.zeros((len(graph.layers), partition.n_parts), np.int64)
    for layer, owner in enumerate(partition.owners):
        np.add.at(weights[layer], owner, graph.layer_weights(layer))
    return weights


def imbalance(graph: UnitGraph, partition: Partition) -> npt.NDArray[np.float64]:
    """(n_layers,) the heaviest part over the mean part, minus one: 0 where a layer is split evenly.

    Each layer counts separately: its parts work at the same time and wait for the heaviest.
    """
    weights = part_weights(graph, partition)
    mean = weights.sum(axis=1) / weights.shape[1]
    return np.divide(weights.max(axis=1), mean, out=np.ones(len(mean)), where=mean > 0) - 1.0


def communication_volume(graph: UnitGraph, partition: Partition) -> Volume:
    """Connectivity minus one, summed over all nets of each direction: the values that have to travel.

    A unit's value is sent once to every other part that owns a neighbour of it (Çatalyürek and Aykanat 1999).
    """
    owners, n_parts = compact(check(graph, partition))
    pairs = list(zip(graph.links, owners[:-1], owners[1:], strict=True))
    up = [values_sent(link.up, lower, upper, n_parts) for link, lower, upper in pairs]
    down = [values_sent(link.down, upper, lower, n_parts) for link, lower, upper in pairs]
    return Volume(np.array(up, np.int64), np.array(down, np.int64))


def values_sent(nets: Links, senders: IntArray, receivers: IntArray, n_parts: int) -> int:
    """Pairs (unit, part other than its own that owns a neighbour).   senders, receivers: parts of both layers' units"""
    return int(units_sent(nets, senders, receivers, n_parts).sum())


def units_sent(nets: Links, senders: IntArray, receivers: IntArray, n_parts: int) -> IntArray:
    """(n_parts, n_parts) units of the row's part with a neighbour in the column's; none in the diagonal."""
    if isinstance(nets, Complete):
        receiving = (np.bincount(receivers, minlength=n_parts) > 0).astype(np.int64)
        sent = np.outer(np.bincount(senders, minlength=n_parts), receiving)
        np.fill_diagonal(sent, 0)
        return sent.astype(np.int64)
    return np.asarray(_count_sent(nets.offsets, nets.neighbours, senders, receivers, n_parts))


@njit(nogil=True)
def _count_sent(offsets, neighbours, senders, receivers, n_parts):  # type: ignore[no-untyped-def]
    sent = np.zeros((n_parts, n_parts), np.int64)
    last = np.full(n_parts, -1, np.int64)  # the last unit that was counted for a part
    for unit in range(len(senders)):
        owner = senders[unit]
        last[owner] = unit
        for i in range(offsets[unit], offsets[unit + 1]):
            part = receivers[neighbours[i]]
            if last[part] != unit:
                last[part] = unit
                sent[owner, part] += 1
    return sent


def edge_cut(graph: UnitGraph, partition: Partition) -> int:
    """Edges whose two units have different owners."""
    partition = check(graph, partition)
    cut = 0
    for link, lower, upper in zip(graph.links, partition.owners[:-1], partition.owners[1:], strict=True):
        if isinstance(link, Complete):
            inside = np.bincount(lower, minlength=partition.n_parts) * np.bincount(upper, minlength=partition.n_parts)
            cut += link.n_edges - int(inside.sum())
        else:
            units, neighbours = link.edges()
            cut += int((lower[units] != upper[neighbours]).sum())
    return cut
