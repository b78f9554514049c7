"""The predicted time of a training step with a partition, from a few rates of a machine."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from partitioners.arguments import integer
from partitioners.graph import Complete, IntArray, Sparse, UnitGraph
from partitioners.partition import Partition, check, compact
from partitioners.traffic import WORD, traffic

FloatArray = npt.NDArray[np.float64]


class Rates(NamedTuple):
    """Rates of a machine where every part has its own host; default: cores of 2024 and links of 1 Gbit/s.

    connection              seconds for one connection and sample: products up and down, and statistics
    byte, message           seconds to receive one byte, and in addition for each message
    up_planes, down_planes  bits of a unit that travel up and down in one step: in CD-1 with statistics of 4 bits those
                            of the visible states, and of the hidden states and two statistics
    """

    connection: float = 2.2e-10
    byte: float = 8.4e-9
    message: float = 3e-5
    up_planes: int = 1
    down_planes: int = 9


def step_seconds(graph: UnitGraph, partition: Partition, *, batch: int = 256, rates: Rates | None = None) -> float:
    """Predicted time of one step of every RBM with a minibatch of ``batch`` samples, one RBM after the other.

    In every RBM all parts wait for the one with the most connections, and in every exchange for the one whose
    receiving takes longest (a latency-bandwidth model: Hockney 1994).  Raises GraphError where the partition does not
    fit the graph, and for batches without samples.
    """
    rates = Rates() if rates is None else rates
    batch, partition = integer("batch", batch, 1), compact(check(graph, partition))
    sent = traffic(graph, partition)
    seconds = 0.0
    for link, lower, upper in zip(graph.links, partition.owners[:-1], partition.owners[1:], strict=True):
        work = _connections(link, lower, upper, partition.n_parts)
        seconds += rates.connection * batch * float(work.max(initial=0.0))
    for directions, planes in ((sent.up, rates.up_planes), (sent.down, rates.down_planes)):
        seconds_a_unit = rates.byte * WORD * -(-batch // 64) * planes
        for matrix in directions:
            received = seconds_a_unit * matrix.sum(axis=0) + rates.message * (matrix > 0).sum(axis=0)  # by each part
            seconds += float(received.max(initial=0.0))
    return seconds


def _connections(link: Complete | Sparse, lower: IntArray, upper: IntArray, n_parts: int) -> FloatArray:
    """(n_parts,) connections of each part: a third of those of its upper units, for the product up, a third of those of
    its lower ones, for the product down, and for the statistics a third of all that have an end there."""
    sizes = [np.bincount(owner, minlength=n_parts) for owner in (lower, upper)]
    if isinstance(link, Complete):
        below, above = sizes[0] * link.n_upper, sizes[1] * link.n_lower
        inside = sizes[0] * sizes[1]
    else:
        units, neighbours = link.edges()
        start, end = lower[units], upper[neighbours]
        below, above = (np.bincount(parts, minlength=n_parts) for parts in (start, end))
        inside = np.bincount(start[start == end], minlength=n_parts)
    return np.asarray((2 * below + 2 * above - inside) / 3)
