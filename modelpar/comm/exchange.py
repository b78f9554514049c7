"""Moves one layer's activations between the shards of a model: two verbs, each the other's adjoint."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.status import Status
from modelpar.kernels.states import Packed
from modelpar.ownership.layout import UnitLayout

Array = npt.NDArray[Any]
BoolArray = npt.NDArray[np.bool_]
NestedBytes = dict[str, dict[str, dict[str, int]]]


UPKEEP = ("broadcast", "refresh", "biases")  # verbs that keep copies alike, or prepare a stage


class Traffic:
    """Bytes that crossed between ranks, by axis, verb and kind: those that this rank received, or pushed.

    gather      (n_units - n_owned) x bytes of a unit: the units that this rank does not own; between replicas the
                activations for the next RBM that the others have propagated and all keep
    reduce      n_owned x (n_shards - 1) x bytes of a unit: the other shards' sums for the owned units
    halo        the units of others that this shard's connections need
    allreduce   2 (R - 1) / R x bytes: what the best algorithm moves (Rabenseifner 2004); statistics or updates of
                weights and biases, running means of a sparsity penalty, parts of velocities
    average     the same, of parameters and velocities (``sync.LocalSGD``)
    fetch, push the elements of a parameter server's vectors that other ranks host

    These are the steps of training and the propagation to the next RBM: ``counts``.  Counted apart from them are

    upkeep      broadcast: the first replica's parameters, at the beginning of a stage; refresh: second blocks and
                copies of weights; biases: sums over the data from which visible biases start
    measures    all that moves inside of ``measuring()``: scores and monitors

    ``far`` has those of the bytes of training that came from another node: exactly for gather, reduce and halo; for the
    others, whose algorithms MPI chooses, in proportion to the ranks of the axis that are on other nodes.

    A unit has batch x itemsize bytes, or, packed, 8 bytes for each plane of 64 samples.  The kinds are ``bits``
    (packed), ``integers`` and ``floats``.  ``status`` tells the watchdog's thread in which verb this rank waits.

    Not counted: agreement on errors, sizes, records and tickets, sums of a few numbers, digests; messages sent once
    where a network, a grid or a window is made; the bytes of files, pictures, pruning and recovery from a lost rank.
    """

    def __init__(self, status: Status | None = None, distant: Mapping[str, BoolArray] | None = None) -> None:
        """status    of this rank; None: a new one
        distant   by axis, (n_ranks,) which of the ranks along it are on other nodes; None: none"""
        self._distant = distant or {}
        self.far: Counter[tuple[str, str, str]] = Counter()
        self.counts: Counter[tuple[str, str, str]] = Counter()
        self.upkeep: Counter[tuple[str, str, str]] = Counter()
        self.measures: Counter[tuple[str, str, str]] = Counter()
        self._measuring = False
        self.status = status or Status()

    def add(self, axis: str, verb: str, values: Array, n_bytes: int, of_ranks: npt.ArrayLike | None = None) -> None:
        """Count ``n_bytes`` of the kind of ``values``, which are those that travelled, or some of them.

        of_ranks   (n_ranks,) in which proportion they came from the ranks along the axis; None: from each other one as
                   many
        """
        kind = {"u": "bits", "i": "integers", "f": "floats"}[values.dtype.kind]
        counts = self.measures if self._measuring else self.upkeep if verb in UPKEEP else self.counts
        counts[axis, verb, kind] += int(n_bytes)
        distant = self._distant.get(axis)
        if counts is self.counts and n_bytes and distant is not None and distant.any():
            shares = np.ones(len(distant)) if of_ranks is None else np.asarray(of_ranks, float)
            others = shares.sum() - (1 if of_ranks is None else 0)
            self.far[axis, verb, kind] += round(n_bytes * float(shares[distant].sum() / others))

    def add_allreduce(self, axis: str, values: Array, size: int, verb: str = "allreduce") -> None:
        """Count a sum of ``values`` over ``size`` ranks."""
        self.add(axis, verb, values, 2 * (size - 1) * values.nbytes // size)

    @contextmanager
    def measuring(self) -> Iterator[None]:
        """A block whose bytes are counted apart: scores and monitors do not belong to training."""
        before, self._measuring = self._measuring, True
        try:
            yield
        finally:
            self._measuring = before

    @property
    def bytes(self) -> NestedBytes:
        """This rank's bytes, ``{axis: {verb: {kind: bytes}}}``."""
        return _nested(self.counts)

    def total(self, comm: MPI.Comm, of: str = "counts") -> NestedBytes:
        """The bytes of all ranks together, the same on every rank.   of: counts, far, upkeep, measures.  Collective."""
        total: Counter[tuple[str, str, str]] = Counter()
        for counts in comm.allgather(getattr(self, of)):
            total.update(counts)
        return _nested(total)


def _nested(counts: Counter[tuple[str, str, str]]) -> NestedBytes:
    nested: NestedBytes = {"shard": {}, "replica": {}}
    for (axis, verb, kind), n_bytes in sorted(counts.items()):
        if n_bytes:
            nested[axis].setdefault(verb, {})[kind] = n_bytes
    return nested


class Exchange:
    """gather (n_owned, batch) -> (n_units, batch); reduce (n_units, batch) -> (n_owned, batch).

    Packed values stay packed.  A gathered array holds the units in ``layout.ordering``.  The array that a
    verb returns is used again by the next call of the same verb, unless it is packed.  Both verbs are collective over
    ``comm``; layers and batches of any size that memory holds.
    """

    def __init__(self, comm: MPI.Comm, layout: UnitLayout, traffic: Traffic) -> None:
        self.comm, self.layout, self.traffic = comm, layout, traffic
        self.n_owned = int(layout.counts[comm.rank])
        self._start = int(layout.offsets[comm.rank])
        self._of_others = np.where(np.arange(comm.size) == comm.rank, 0, layout.counts)
        self._buffers: dict[tuple[str, np.dtype[Any]], Array] = {}

    def gather(self, owned: Array) -> Array:
        """All units' activations from the owned ones."""
        batch = owned.shape[1]
        gathered = self._buffer("gather", self.layout.n_units, batch, owned.dtype)
        self._gather(owned, gathered)
        return gathered

    def gather_packed(self, owned: Packed) -> Packed:
        """All units' packed values from the owned ones: 1/32 of the bytes of floats for each plane."""
        gathered = Packed.empty(self.layout.n_units, owned.batch, owned.planes)
        self._gather(owned.rows, gathered.rows)
        return gathered

    def _gather(self, owned: Array, gathered: Array) -> None:
        n_bytes = (self.layout.n_units - self.n_owned) * gathered.shape[1] * gathered.itemsize
        gathered[self._start : self._start + self.n_owned] = owned
        with self.traffic.status.waiting("gather"):
            messages.gather_rows(self.comm, gathered, self.layout.counts)
        self.traffic.add("shard", "gather", gathered, n_bytes, self._of_others)

    def reduce(self, partial: Array) -> Array:
        """The owned units' sums over all shards from this shard's part of every unit's sum.

        Sums of int32 wrap on overflow, as additions within a shard do.
        """
        batch = partial.shape[1]
        owned = self._buffer("reduce", self.n_owned, batch, partial.dtype)
        # MPI defines the sum of unsigned integers only: they wrap
        sent, received = (x.view(np.uint32) if x.dtype == np.int32 else x for x in (partial, owned))
        with self.traffic.status.waiting("reduce"):
            messages.reduce_rows(self.comm, sent, received, self.layout.counts)
        n_bytes = self.n_owned * (self.comm.size - 1) * batch * partial.itemsize
        self.traffic.add("shard", "reduce", partial, n_bytes)
        return owned

    def sum_over_shards(self, values: Array, op: MPI.Op = MPI.SUM) -> None:
        """Replace small ``values`` by their sums over the shards, or by what another operation makes of them."""
        with self.traffic.status.waiting("allreduce"):
            self.comm.Allreduce(MPI.IN_PLACE, values, op)
        self.traffic.add_allreduce("shard", values, self.comm.size)

    def _buffer(self, verb: str, n_units: int, batch: int, dtype: npt.DTypeLike) -> Array:
        """(n_units, batch) that the next call of the same verb uses again."""
        key = verb, np.dtype(dtype)
        buffer = self._buffers.get(key)
        if buffer is None or buffer.size < n_units * batch:
            self._buffers[key] = buffer = np.empty(n_units * batch, dtype)
        return buffer[: n_units * batch].reshape(n_units, batch)
