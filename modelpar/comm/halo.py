"""Moves the activations of the units that other shards need, and no others: to each shard those it is connected with.

The same two sides as ``exchange``, for connections that are not complete.  Who needs what is agreed on once, when the
exchange is made; after that each message is the rows of one neighbour.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.ownership.layout import UnitLayout

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
TAG = 16  # of the messages between neighbours


@dataclass
class Pending:
    """Rows that are on their way: ``whole`` is complete when they have arrived."""

    whole: Array
    requests: list[MPI.Request]
    sent: list[Array]  # which MPI still reads


class Halo:
    """The units of one layer that this shard needs: its own, and its *halo*, those of others.

    units   (n_owned + n_halo,) their ids: the owned ones first, then the halo shard after shard, ascending in each

    Making one is collective over ``comm``; so is every exchange.
    """

    def __init__(self, comm: MPI.Comm, layout: UnitLayout, needed: IntArray, traffic: Traffic) -> None:
        """needed   (n,) ids of units of this layer that this shard's weights take part with, owned ones among them"""
        self.comm, self.traffic = comm, traffic
        owned = layout.owned(comm.rank)
        self.n_owned = len(owned)
        others = np.unique(needed)
        others = others[layout.owner[others] != comm.rank]
        halo = others[np.argsort(layout.owner[others], kind="stable")]
        self.units = np.concatenate([owned, halo])
        counts = np.bincount(layout.owner[halo], minlength=comm.size)
        self._receive = [(q, int(n)) for q, n in enumerate(counts) if n]
        asked = comm.alltoall([halo[layout.owner[halo] == q] for q in range(comm.size)])
        self._send = [(q, np.searchsorted(owned, ids)) for q, ids in enumerate(asked) if len(ids)]

    @property
    def n_units(self) -> int:
        return len(self.units)

    @property
    def n_halo(self) -> int:
        return len(self.units) - self.n_owned

    def begin(self, owned: Array) -> Pending:
        """Send the owned rows (n_owned, width) that others need, and make room for theirs behind the own ones."""
        whole = np.empty((self.n_units, owned.shape[1]), owned.dtype)
        whole[: self.n_owned] = owned
        pending = Pending(whole, [], [])
        at = self.n_owned
        for shard, n in self._receive:
            pending.requests += messages.begin(self.comm.Irecv, whole[at : at + n], shard, TAG)
            at += n
        for shard, rows in self._send:
            pending.sent.append(owned[rows])
            pending.requests += messages.begin(self.comm.Isend, pending.sent[-1], shard, TAG)
        self.traffic.add("shard", "halo", whole, self.n_halo * whole.shape[1] * whole.itemsize)
        return pending

    def end(self, pending: Pending) -> None:
        """Wait until all rows are there."""
        if not pending.requests:
            return
        with self.traffic.status.waiting("halo"):
            MPI.Request.Waitall(pending.requests)
        pending.requests.clear()
        pending.sent.clear()
