"""The traffic between parts that a partition causes: who sends how many states to whom, and how many bytes.

States travel as packed bits, 64 samples a word, so a unit's states of one minibatch take an integral number of words.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from partitioners.arguments import integer
from partitioners.graph import IntArray, UnitGraph
from partitioners.partition import Partition, check, compact, units_sent

WORD = 8  # bytes, for 64 samples


class Traffic(NamedTuple):
    """Units whose states travel, for each RBM a matrix (n_parts, n_parts): from the row's part to the column's.

    up    states of lower units, to the parts that own upper neighbours of them
    down  states of upper units, to the parts that own lower neighbours of them
    """

    up: tuple[IntArray, ...]
    down: tuple[IntArray, ...]

    @property
    def directions(self) -> tuple[IntArray, ...]:
        """All matrices: each is one exchange."""
        return (*self.up, *self.down)


class Bytes(NamedTuple):
    """Bytes of one minibatch, (n_rbms,) in each direction, all parts together."""

    up: IntArray
    down: IntArray

    @property
    def total(self) -> int:
        return int(self.up.sum() + self.down.sum())


def traffic(graph: UnitGraph, partition: Partition) -> Traffic:
    """How many units' states each part sends to each other part.  Raises GraphError unless the partition fits."""
    owners, n_parts = check(graph, partition)
    pairs = list(zip(graph.links, owners[:-1], owners[1:], strict=True))
    up = tuple(units_sent(link.up, lower, upper, n_parts) for link, lower, upper in pairs)
    down = tuple(units_sent(link.down, upper, lower, n_parts) for link, lower, upper in pairs)
    return Traffic(up, down)


def largest_send(sends: Traffic) -> int:
    """States that the busiest part sends for one sample, in one pass up and one down of every RBM."""
    return int(sum(sent.sum(axis=1) for sent in sends.directions).max()) if sends.directions else 0


def messages(sends: Traffic) -> int:
    """Pairs of parts between which something travels, summed over RBMs and directions."""
    return int(sum((sent > 0).sum() for sent in sends.directions))


def predicted_bytes(graph: UnitGraph, partition: Partition, batch: int, planes: int = 1) -> Bytes:
    """Bytes that travel for a minibatch of ``batch`` samples, with ``planes`` bits for each state.

    A unit costs ``8 * ceil(batch / 64)`` bytes a plane for every other part that needs it.  Raises GraphError where the
    partition does not fit the graph, and for batches without samples.
    """
    batch, planes = integer("batch", batch, 1), integer("planes", planes, 1)
    sends = traffic(graph, compact(check(graph, partition)))
    unit_bytes = WORD * -(-batch // 64) * planes
    up, down = ([unit_bytes * int(sent.sum()) for sent in direction] for direction in sends)
    return Bytes(np.array(up, np.int64), np.array(down, np.int64))
