"""Moves only the activations that other shards need: to each shard those of the units that it is connected with.

The same two sides as ``exchange``, for connections that are not complete.  The shards agree once, when the
exchange is made, on the units that each needs; after that each message is the rows of one neighbour.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.collective import messages
from modelpar.comm.exchange import Traffic
from modelpar.comm.transfer import Transfer
from modelpar.kernels.products.product import Activations
from modelpar.kernels.states import Packed
from modelpar.ownership.layout import UnitLayout

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]
TAG = 16  # of the messages between neighbours


class Halo:
    """The units of one layer that this shard needs: its own ones, and its *halo*, the units of other shards.

    units   (n_owned + n_halo,) their ids: the owned ones first, then the halo shard after shard, ascending in each

    Making one is collective over ``comm``; so is every exchange.
    """

    def __init__(self, comm: MPI.Comm, layout: UnitLayout, needed: IntArray, traffic: Traffic) -> None:
        """needed   (n,) ids of units of this layer that this shard's weights connect, owned ones among them"""
        self.comm, self.traffic = comm, traffic
        owned = layout.owned(comm.rank)
        self.n_owned = len(owned)
        others = np.unique(needed)
        others = others[layout.owner[others] != comm.rank]
        halo = others[np.argsort(layout.owner[others], kind="stable")]
        self.units = np.concatenate([owned, halo])
        counts = np.bincount(layout.owner[halo], minlength=comm.size)
        self._of_others = counts
        self._receive = [(q, int(n)) for q, n in enumerate(counts) if n]
        asked = comm.alltoall([halo[layout.owner[halo] == q] for q in range(comm.size)])
        self._send = [(q, np.searchsorted(owned, ids)) for q, ids in enumerate(asked) if len(ids)]

    @property
    def n_units(self) -> int:
        return len(self.units)

    @property
    def n_halo(self) -> int:
        return len(self.units) - self.n_owned

    def begin(self, owned: Activations) -> Transfer:
        """Send the owned units' activations (n_owned, batch) that others need; theirs arrive after the own ones."""
        rows = owned.rows if isinstance(owned, Packed) else owned
        values = np.empty((self.n_units, rows.shape[1]), rows.dtype)
        values[: self.n_owned] = rows
        sent = [rows[positions] for _, positions in self._send]
        # nothing can fail between the first request and the last
        requests: list[MPI.Request] = []
        at = self.n_owned
        for shard, n in self._receive:
            requests += messages.begin(self.comm.Irecv, values[at : at + n], shard, TAG)
            at += n
        for (shard, _), rows in zip(self._send, sent, strict=True):
            requests += messages.begin(self.comm.Isend, rows, shard, TAG)
        n_bytes = self.n_halo * values.shape[1] * values.itemsize
        self.traffic.add("shard", "halo", values, n_bytes, self._of_others)
        spread: Activations = values
        if isinstance(owned, Packed):
            spread = Packed(values.reshape(self.n_units, owned.planes, owned.words.shape[2]), owned.batch)
        return Transfer(spread, requests, sent, self.traffic.status)
