"""The ranks of one run as a grid, ``replicas`` x ``model_shards``, and a communicator along each axis.

After the grid there may be server ranks, which hold the parameters of a parameter server and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar import faults
from modelpar.collective.agreement import agree
from modelpar.collective.ending import all_raise
from modelpar.comm import lifetimes
from modelpar.comm.cores import settle
from modelpar.comm.launch import warn_where_alone
from modelpar.comm.status import Status
from modelpar.errors import GridError, ModelparError
from modelpar.values import plain

TOLERANCE = "OMPI_MCA_mpi_ft_enable"  # set by mpirun --with-ft ulfm
MOST_RANKS = 1 << 31  # that MPI counts


class Grid:
    """``replicas`` x ``model_shards`` ranks, and a communicator along each axis.

    comm          all ranks of the grid, replica by replica
    shard_comm    the ranks that together hold one model; activations travel here
    replica_comm  the ranks that hold the same shard; updates travel here
    column_comm   those of replica_comm, then the servers of this shard
    node_comm     the ranks of the grid on this node
    cores         this rank's fraction of the node's cores
    far           whether the shards of some model are on several nodes
    replicas_far  whether the replicas are on several nodes
    distant       ``shard`` and ``replica``: which of the ranks along this axis are on other nodes than this one

    The first one of a process chooses the threads of its rank, where they were not chosen before (``comm.cores``).
    Making one is collective over the communicator that it is made from, which stays the caller's; so is ``free``.
    Communicators of grids that were not freed, and to which no rank refers any more, are freed when the next grid is
    made over their ranks (``comm.lifetimes``).
    Either size may be left out: the other fixes it, and without both there is one model over all ranks.  The last
    ``servers`` ranks do not belong to the grid: they are servers, each of one shard, and have only ``column_comm``.
    Raises GridError, on every rank, where the sizes do not fit the number of ranks, or MPI has no room for more
    communicators, DisagreementError where the sizes differ between ranks.
    """

    def __init__(
        self, comm: MPI.Comm, *, model_shards: int | None = None, replicas: int | None = None, servers: int = 0
    ) -> None:
        asked = {"model_shards": model_shards, "replicas": replicas, "servers": servers, TOLERANCE: self.tolerant}
        agree(comm, "Grid", **dict[str, Any](asked))
        faults.at("grid")
        warn_where_alone(comm)
        servers = plain.integer_number("--servers", servers, error=GridError, at_least=0, at_most=MOST_RANKS)
        if model_shards is not None:
            model_shards = plain.integer_number("--model-shards", model_shards, error=GridError, at_most=MOST_RANKS)
        if replicas is not None:
            replicas = plain.integer_number("--replicas", replicas, error=GridError, at_most=MOST_RANKS)
        check_servers(comm.size, servers, model_shards)
        n_ranks = comm.size - servers
        self.n_shards, self.n_replicas = grid_shape(n_ranks, model_shards, replicas, servers)
        check_servers(comm.size, servers, self.n_shards)
        self.status = Status()  # of this rank
        self.n_servers, self.is_server = servers, comm.rank >= n_ranks
        self._key, self._held = lifetimes.free_dropped(comm), list[lifetimes.Held]()
        try:
            self._make(comm, n_ranks)
        except MPI.Exception as error:
            if self.tolerant:  # a rank was lost
                raise
            n = lifetimes.in_use().get("communicator", 0)
            raise GridError(
                f"MPI cannot make the communicators of another grid ({lifetimes.one_line(error)}); {n} of other grids "
                "are in use: free these when they are no longer needed, by free() or 'with Grid(...)'"
            ) from None

    def _make(self, comm: MPI.Comm, n_ranks: int) -> None:
        """All communicators.  Collective over ``comm``, of which the first ``n_ranks`` are the grid."""
        if self.is_server:
            server = comm.rank - n_ranks
            self.shard, self.replica = server % self.n_shards, -1
            self.comm = self.shard_comm = self.replica_comm = self.node_comm = MPI.COMM_NULL
            self.cores = 1
            self.distant = dict[str, npt.NDArray[np.bool_]]()
            comm.Split(MPI.UNDEFINED)
            self.column_comm = self._keep(comm.Split(self.shard, self.n_replicas + server), f"column {self.shard}")
            return
        members = self._keep(comm.Split(0, comm.rank), "members")
        of_members = self._held.pop()
        self.node_comm = members.Split_type(MPI.COMM_TYPE_SHARED)
        # a node is named by its lowest rank, so that names need not be compared
        node_of_rank = members.allgather(self.node_comm.bcast(members.rank))
        self._keep(self.node_comm, f"node {node_of_rank[members.rank]}")
        self.cores = settle(self.node_comm)
        order = placement(node_of_rank, self.n_shards)
        position = order.index(members.rank)
        nodes = [node_of_rank[rank] for rank in order]
        starts = range(0, n_ranks, self.n_shards)
        # whether the shards of some replica are on several nodes
        self.far = any(len(set(nodes[start : start + self.n_shards])) > 1 for start in starts)
        self.replicas_far = len(set(nodes)) > 1
        self.comm = self._keep(members.Split(0, position), "grid")
        of_members.free()
        self.replica, self.shard = divmod(position, self.n_shards)
        distant = (np.array(nodes) != nodes[position]).reshape(self.n_replicas, self.n_shards)
        self.distant = {"shard": distant[self.replica], "replica": distant[:, self.shard]}
        self.shard_comm = self._keep(self.comm.Split(self.replica, self.shard), f"shards of {self.replica}")
        self.replica_comm = self._keep(self.comm.Split(self.shard, self.replica), f"replicas of {self.shard}")
        self.column_comm = self.replica_comm
        if self.n_servers:
            self.column_comm = self._keep(comm.Split(self.shard, self.replica), f"column {self.shard}")

    def _keep(self, comm: MPI.Comm, name: str) -> MPI.Comm:
        self._held.append(lifetimes.Held(comm, f"{self._key} {name}", comm.size))
        return comm

    _NAMES = ("shard_comm", "replica_comm", "column_comm", "comm", "node_comm")
    # whether a run can go on when a rank is lost: User Level Failure Mitigation, as in Open MPI 5
    tolerant = os.environ.get(TOLERANCE) in ("1", "true") and hasattr(MPI.Comm, "Shrink")

    @property
    def role(self) -> str:
        """The role of this rank, for people."""
        if self.is_server:
            return f"server of shard {self.shard}"
        return f"replica {self.replica}, shard {self.shard}"

    def check_ranks(self) -> None:
        """Raise MPI.Exception where a rank was lost; does nothing where ranks are not lost singly.  Not collective."""
        if self.tolerant:
            for comm in (self.comm, self.column_comm):
                if comm != MPI.COMM_NULL:
                    comm.Iprobe()

    def abandon(self) -> None:
        """Interrupt all waits of other ranks on these communicators, which cannot be used any more.

        Not collective.  MPI's memory of them is not freed: a rank that was lost cannot take part in that.
        """
        for held in self._held:
            held.forget()
        for comm in {id(comm): comm for comm in (getattr(self, name) for name in self._NAMES)}.values():
            if comm != MPI.COMM_NULL:
                with suppress(MPI.Exception):
                    comm.Revoke()
        for name in self._NAMES:
            setattr(self, name, MPI.COMM_NULL)

    def free(self) -> None:
        """Free the communicators that the grid made; a second call does nothing.  Collective."""
        for held in self._held:
            held.free()

    def __enter__(self) -> Grid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # after an exception on this rank alone the others are not there to free with
        if error is None or self.is_server or self.comm == MPI.COMM_NULL:
            together = error is None or isinstance(error, ModelparError)  # which the ranks of the grid told a server
        else:
            together = self.comm.size == 1 or (isinstance(error, ModelparError) and all_raise(self.comm, error))
        if together:
            self.free()

    def __repr__(self) -> str:
        servers = f" + {self.n_servers} servers" if self.n_servers else ""
        return f"Grid({self.n_replicas} replicas x {self.n_shards} model shards{servers})"


def check_servers(n_all: int, servers: int, model_shards: int | None) -> None:
    """Raise GridError where ``servers`` of ``n_all`` ranks cannot be servers of so many model shards."""
    if servers and servers >= n_all:
        raise GridError(f"--servers {servers} leaves none of the {n_all} ranks to train; start more with mpirun -n")
    if servers and model_shards is not None and servers < model_shards:
        raise GridError(
            f"--servers is {servers}, but each serves one of {model_shards} model shards, so that none holds a whole "
            f"model; use at least {model_shards}, or 0 to spread the parameters over the ranks that train"
        )


def grid_shape(n_ranks: int, model_shards: int | None, replicas: int | None, servers: int = 0) -> tuple[int, int]:
    """(model shards, replicas) from what was asked for; raises GridError where they do not fit ``n_ranks``.

    servers   number of ranks besides those, for the message
    """
    for name, size in (("--model-shards", model_shards), ("--replicas", replicas)):
        if size is not None and size < 1:
            raise GridError(f"{name} is {size}, but must be at least 1")
    beside = f" beside {servers} server{'s' if servers > 1 else ''}" if servers else ""
    if model_shards is None and replicas is None:
        return n_ranks, 1
    if model_shards is None or replicas is None:
        given = model_shards or replicas or 1
        if n_ranks % given:
            kind = "replicas" if model_shards is None else "model shards"
            raise GridError(
                f"{given} {kind} do not divide the {n_ranks} ranks that were started{beside}; start a multiple of "
                f"{given}"
            )
        other = n_ranks // given
        return (other, given) if model_shards is None else (given, other)
    if model_shards * replicas != n_ranks:
        raise GridError(
            f"{model_shards} model shards x {replicas} replicas need {model_shards * replicas} ranks, but {n_ranks} "
            f"{'was' if n_ranks == 1 else 'were'} started{beside}; use mpirun -n {model_shards * replicas + servers}"
        )
    return model_shards, replicas


def placement(node_of_rank: Sequence[int], n_shards: int) -> list[int]:
    """The ranks in grid order (replica by replica) such that the shards of a replica share a node where they can.

    Every node has as many complete replicas as fit on it; the other replicas consist of the ranks that are left over.
    """
    complete: list[int] = []
    left: list[int] = []
    for node in sorted(set(node_of_rank)):
        ranks = [rank for rank, its_node in enumerate(node_of_rank) if its_node == node]
        n_fitting = len(ranks) // n_shards * n_shards
        complete += ranks[:n_fitting]
        left += ranks[n_fitting:]
    return complete + left
