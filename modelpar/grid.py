"""The ranks of one run as a grid, ``replicas`` x ``model_shards``, and a communicator along each axis."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType

from mpi4py import MPI

from modelpar.errors import GridError, ModelparError


class Grid:
    """``replicas`` x ``model_shards`` ranks, and a communicator along each axis.

    shard_comm    the ranks that together hold one model; activations travel here
    replica_comm  the ranks that hold the same shard; updates travel here
    node_comm     the ranks of this node
    far           whether the shards of some model are on several nodes

    Making one is collective over ``comm``, which stays the caller's; so is ``free``.  Either size may be left out:
    the other fixes it, and without both there is one model over all ranks.
    Raises GridError, on every rank, where the sizes do not fit the number of ranks.
    """

    def __init__(self, comm: MPI.Comm, *, model_shards: int | None = None, replicas: int | None = None) -> None:
        self.n_shards, self.n_replicas = grid_shape(comm.size, model_shards, replicas)
        self.node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED)
        # a node is named by its lowest rank, so that names need not be compared
        node_of_rank = comm.allgather(self.node_comm.bcast(comm.rank))
        place = placement(node_of_rank, self.n_shards)
        position = place.index(comm.rank)
        nodes = [node_of_rank[rank] for rank in place]
        starts = range(0, comm.size, self.n_shards)
        # whether the shards of some replica are on several nodes
        self.far = any(len(set(nodes[start : start + self.n_shards])) > 1 for start in starts)
        self.comm = comm.Split(0, position)
        self.replica, self.shard = divmod(position, self.n_shards)
        self.shard_comm = self.comm.Split(self.replica, self.shard)
        self.replica_comm = self.comm.Split(self.shard, self.replica)

    def free(self) -> None:
        """Free the communicators that the grid made; a second call does nothing.  Collective."""
        for made in (self.shard_comm, self.replica_comm, self.comm, self.node_comm):
            if made != MPI.COMM_NULL:
                made.Free()

    def __enter__(self) -> Grid:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # all ranks raise a ModelparError together; after another exception they may not be there to free with
        if kind is None or issubclass(kind, ModelparError) or self.comm.size == 1:
            self.free()

    def __repr__(self) -> str:
        return f"Grid({self.n_replicas} replicas x {self.n_shards} model shards)"


def grid_shape(n_ranks: int, model_shards: int | None, replicas: int | None) -> tuple[int, int]:
    """(model shards, replicas) from what was asked for; raises GridError where they do not fit ``n_ranks``."""
    for name, size in (("--model-shards", model_shards), ("--replicas", replicas)):
        if size is not None and size < 1:
            raise GridError(f"{name} is {size}, but must be at least 1")
    if model_shards is None and replicas is None:
        return n_ranks, 1
    if model_shards is None or replicas is None:
        given = model_shards or replicas or 1
        if n_ranks % given:
            kind = "replicas" if model_shards is None else "model shards"
            raise GridError(
                f"{given} {kind} do not divide the {n_ranks} ranks that were started; start a multiple of {given}"
            )
        other = n_ranks // given
        return (other, given) if model_shards is None else (given, other)
    if model_shards * replicas != n_ranks:
        raise GridError(
            f"{model_shards} model shards x {replicas} replicas need {model_shards * replicas} ranks, but {n_ranks} "
            f"{'was' if n_ranks == 1 else 'were'} started; use mpirun -n {model_shards * replicas}"
        )
    return model_shards, replicas


def placement(node_of_rank: Sequence[int], n_shards: int) -> list[int]:
    """The ranks in grid order (replica by replica) such that the shards of a replica share a node where they can.

    Every node gives as many whole replicas as it has room for; the ranks left over make up the others together.
    """
    whole: list[int] = []
    left: list[int] = []
    for node in sorted(set(node_of_rank)):
        ranks = [rank for rank, its_node in enumerate(node_of_rank) if its_node == node]
        fitting = len(ranks) // n_shards * n_shards
        whole += ranks[:fitting]
        left += ranks[fitting:]
    return whole + left
