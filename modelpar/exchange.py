"""Moves one layer's activations between the shards of a model: two verbs, each the other's adjoint."""

from __future__ import annotations

from collections import Counter

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.layout import UnitLayout

Array = npt.NDArray[np.floating]


class Traffic:
    """Bytes of activations and updates that had to cross between ranks, by axis and verb; what this rank received.

    gather      (n_units - n_owned) x batch x itemsize: the units that this rank does not own
    reduce      n_owned x (n_shards - 1) x batch x itemsize: the other shards' sums for the owned units
    allreduce   2 (R - 1) / R x bytes: what the best algorithm moves (Rabenseifner 2004)
    """

    def __init__(self) -> None:
        self.counts: Counter[tuple[str, str]] = Counter()

    def add(self, axis: str, verb: str, n_bytes: int) -> None:
        self.counts[axis, verb] += n_bytes

    @property
    def bytes(self) -> dict[str, dict[str, int]]:
        """This rank's bytes, ``{axis: {verb: bytes}}``."""
        return _nested(self.counts)

    def total(self, comm: MPI.Comm) -> dict[str, dict[str, int]]:
        """The bytes of all ranks together, the same on every rank.  Collective."""
        both: Counter[tuple[str, str]] = Counter()
        for counts in comm.allgather(self.counts):
            both.update(counts)
        return _nested(both)


def _nested(counts: Counter[tuple[str, str]]) -> dict[str, dict[str, int]]:
    nested: dict[str, dict[str, int]] = {"shard": {}, "replica": {}}
    for (axis, verb), n_bytes in sorted(counts.items()):
        nested[axis][verb] = n_bytes
    return nested


class Exchange:
    """gather (n_owned, batch) -> (n_units, batch); reduce (n_units, batch) -> (n_owned, batch).

    A gathered array holds the units in ``layout.ordering``.  The array that a verb returns is used again by the next
    call of the same verb.  Both verbs are collective over ``comm``; batches of any size up to 2**31 elements a layer.
    """

    def __init__(self, comm: MPI.Comm, layout: UnitLayout, dtype: npt.DTypeLike, traffic: Traffic) -> None:
        self.comm, self.layout, self.traffic = comm, layout, traffic
        self.n_owned = int(layout.counts[comm.rank])
        self._start = int(layout.offsets[comm.rank])
        self._whole: Array = np.empty(0, dtype)
        self._owned: Array = np.empty(0, dtype)

    def gather(self, owned: Array) -> Array:
        """All units' activations from the owned ones."""
        batch = owned.shape[1]
        self._whole = _room(self._whole, self.layout.n_units * batch)
        whole = self._whole[: self.layout.n_units * batch].reshape(self.layout.n_units, batch)
        whole[self._start : self._start + self.n_owned] = owned
        self.comm.Allgatherv(MPI.IN_PLACE, [whole, self.layout.counts * batch])
        self.traffic.add("shard", "gather", (self.layout.n_units - self.n_owned) * batch * owned.itemsize)
        return whole

    def reduce(self, partial: Array) -> Array:
        """The owned units' sums over all shards from this shard's part of every unit's sum."""
        batch = partial.shape[1]
        self._owned = _room(self._owned, self.n_owned * batch)
        owned = self._owned[: self.n_owned * batch].reshape(self.n_owned, batch)
        self.comm.Reduce_scatter(partial, owned, self.layout.counts * batch)
        self.traffic.add("shard", "reduce", self.n_owned * (self.comm.size - 1) * batch * partial.itemsize)
        return owned

    def sum_over_shards(self, values: Array) -> None:
        """Replace small ``values`` by their sums over the shards."""
        self.comm.Allreduce(MPI.IN_PLACE, values)
        size = self.comm.size
        self.traffic.add("shard", "allreduce", 2 * (size - 1) * values.nbytes // size)


def _room(buffer: Array, size: int) -> Array:
    """``buffer``, or a larger one of the same type where it is too small; old contents are not kept."""
    return buffer if buffer.size >= size else np.empty(size, buffer.dtype)
