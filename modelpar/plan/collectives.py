"""Which algorithm MPI takes for a collective, as messages, and the time of that in closed form.

The choices are those of MPICH 5.0 (``maint/tuning/coll/mpir/generic.json`` and ``coll/ch4/generic.json``, the ring
in ``src/mpi/coll/allgatherv/allgatherv_intra_ring.c``) and of Open MPI 5
(``ompi/mca/coll/tuned/coll_tuned_decision_fixed.c``), for the calls that the engine makes: ``Allgatherv`` in place,
``Reduce_scatter`` by counts, ``Allreduce`` of a sum, and messages between two ranks (``collective.messages``).  Both
follow Thakur, Rabenseifner and Gropp (2005): few rounds for short messages, few bytes for long ones.

Two of Open MPI's algorithms are taken as ones that move the same bytes in about as many rounds: its butterfly as
recursive halving, its linear ones, of a few bytes, as Bruck's and as recursive doubling.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from modelpar.errors import ModelparError
from modelpar.plan import rounds
from modelpar.plan.machine import Machine
from modelpar.plan.rounds import FloatArray, IntArray, Round, Rounds
from modelpar.plan.steps import Move

MPIS = ("mpich", "openmpi")
PIECE = 32768.0  # bytes of a piece in MPICH's ring (MPIR_CVAR_ALLGATHERV_PIPELINE_MSG_SIZE)
ADD = 2.5e-10  # seconds to add a byte that has come to one that is there: two are read and one is written
ITEM = 4  # bytes of an element that is summed
SUMS = ("allreduce", "average")
SERVED = ("fetch", "push")

_BRUCK, _RING, _NEIGHBOUR = "bruck", "ring", "neighbour"
_Table = tuple[tuple[float, tuple[tuple[float, str], ...]], ...]
# (fewer ranks than, ((fewer bytes of a rank than, algorithm), ...)), in the order of the source
_OPENMPI_GATHER: _Table = (
    (3, ((np.inf, _RING),)),
    (8, ((256, _BRUCK), (4096, _NEIGHBOUR), (8192, _RING), (16384, _NEIGHBOUR), (262144, _BRUCK),
         (np.inf, _NEIGHBOUR))),
    (16, ((np.inf, _BRUCK),)),
    (32, ((262144, _BRUCK), (np.inf, _RING))),
    (64, ((8192, _BRUCK), (np.inf, _RING))),
    (128, ((4096, _BRUCK), (np.inf, _RING))),
    (256, ((1024, _BRUCK), (65536, _NEIGHBOUR), (np.inf, _RING))),
    (512, ((1024, _BRUCK), (np.inf, _RING))),
    (1024, ((4096, _BRUCK), (1048576, _NEIGHBOUR), (np.inf, _RING))),
    (np.inf, ((4096, _BRUCK), (np.inf, _NEIGHBOUR))),
)  # fmt: skip


@dataclass(frozen=True)
class Placement:
    """On which node every rank is.

    nodes    (n_replicas, n_shards) of the ranks of a grid
    servers  (n_servers,) of ranks that serve the parameters alone; none: they lie on the ranks of the grid
    """

    nodes: IntArray
    servers: IntArray = field(default_factory=lambda: np.empty(0, np.int64))

    @classmethod
    def blocks(cls, n_replicas: int, n_shards: int, ranks_per_node: int, n_servers: int = 0) -> Placement:
        """Node after node is filled, so that the shards of a replica share a node where they fit.

        Servers have nodes of their own.
        """
        ranks = np.arange(n_replicas * n_shards)
        if n_shards <= ranks_per_node:  # only whole replicas on a node
            ranks_per_node -= ranks_per_node % n_shards
        nodes = (ranks // ranks_per_node).reshape(n_replicas, n_shards)
        return cls(nodes, nodes.max(initial=-1) + 1 + np.arange(n_servers))

    @property
    def n_nodes(self) -> int:
        return int(max(self.nodes.max(initial=-1), self.servers.max(initial=-1))) + 1

    def groups(self, axis: str) -> IntArray:
        """(groups, members) ranks, replica by replica, that a collective over ``axis`` brings together."""
        ranks = np.arange(self.nodes.size).reshape(self.nodes.shape)
        return ranks if axis == "shard" else ranks.T

    def node_of_rank(self) -> IntArray:
        """(ranks + servers,)"""
        return np.concatenate([self.nodes.reshape(-1), self.servers])


def gather(blocks: FloatArray, mpi: str = "mpich") -> Rounds:
    """MPI_Allgatherv.   blocks (..., p) bytes of each rank"""
    p, total = blocks.shape[-1], float(blocks.sum(-1).max(initial=0))
    power = p & (p - 1) == 0
    if p == 1 or total == 0:
        return iter(())
    if mpi == "mpich":
        if power and total < 524288:
            return rounds.doubling_gather(blocks)
        return rounds.bruck_gather(blocks) if total < 81920 else rounds.ring_gather(blocks, PIECE)
    algorithm = _look_up(_OPENMPI_GATHER, p, total / p)
    if algorithm == _NEIGHBOUR and p % 2 == 0:
        return rounds.neighbour_gather(blocks)
    return rounds.bruck_gather(blocks) if algorithm == _BRUCK else rounds.ring_gather(blocks)


def reduce(blocks: FloatArray, mpi: str = "mpich") -> Rounds:
    """MPI_Reduce_scatter of a sum.   blocks (..., p) bytes that each rank is to have"""
    p, total = blocks.shape[-1], float(blocks.sum(-1).max(initial=0))
    if p == 1 or total == 0:
        return iter(())
    if mpi == "mpich":
        return rounds.halving_scatter(blocks) if total < 524288 else rounds.pairwise_scatter(blocks)
    # the butterfly, which long messages of 64 ranks and more take, moves what halving moves
    ring_from = 0 if p < 4 else 262144 if p < 32 else 524288 if p < 64 else np.inf
    return rounds.ring_scatter(blocks) if total >= ring_from else rounds.halving_scatter(blocks)


def allreduce(n_bytes: FloatArray, nodes: IntArray, mpi: str = "mpich", *, behind: bool = False) -> Rounds:
    """MPI_Allreduce of a sum, or MPI_Iallreduce, which knows no nodes.

    n_bytes (..., 1) of the vector; nodes (p,) of the ranks of a group, which stand for those of all groups
    """
    p, total = len(nodes), float(n_bytes.max(initial=0))
    if p == 1 or total == 0:
        return iter(())
    if mpi == "mpich":
        n_nodes = len(np.unique(nodes))
        among = n_nodes if 1 < n_nodes < p and not behind else p
        long = total > 8 and total / ITEM >= rounds.largest_power(among)
        if among < p:  # ch4's composition "alpha": within nodes, between their first ranks, within nodes
            return rounds.nodes_sum(n_bytes, nodes, "rabenseifner" if long else "doubling")
        return rounds.rabenseifner_sum(n_bytes, p) if long else rounds.doubling_sum(n_bytes, p)
    if p < 4 and 16384 <= total < 262144:
        return rounds.ring_sum(n_bytes, p)
    doubling = (
        (4, 16384),
        (16, 8192),
        (32, 4096),
        (64, 128),
        (256, 262144),
        (512, 4096),
        (4096, 16384),
        (np.inf, 32768),
    )
    below = next(size for ranks, size in doubling if p < ranks)
    return rounds.doubling_sum(n_bytes, p) if total < below else rounds.rabenseifner_sum(n_bytes, p)


def _look_up(table: _Table, p: int, size: float) -> str:
    row = next(row for ranks, row in table if p < ranks)
    return next(algorithm for below, algorithm in row if size < below)


def rounds_of(move: Move, placement: Placement, mpi: str = "mpich") -> Rounds:
    """The messages of a move; ranks are those of ``placement.groups(move.axis)``, sizes (groups, messages).

    For halos, whose messages go between any two, and for what is fetched and pushed see ``messages_between``.
    Raises ModelparError for an MPI whose choices are not known.
    """
    if mpi not in MPIS:
        raise ModelparError(f"the collectives of MPI {mpi!r} are not known; known are {' and '.join(MPIS)}")
    groups, received = placement.groups(move.axis), np.asarray(move.received, float)
    p = groups.shape[1]
    if p == 1:
        return iter(())
    if move.verb in SUMS:  # 2 (p - 1) / p of the vector is what Traffic counts; over replicas one vector a shard
        n_bytes = received * p / (2 * (p - 1))
        n_bytes = n_bytes[:, None] if move.axis == "replica" else np.array([[n_bytes.max(initial=0)]])
        return allreduce(n_bytes, placement.node_of_rank()[groups[0]], mpi, behind=move.behind > 0)
    if move.axis == "replica":  # one block of every replica
        return gather(np.repeat(received[:, None] / (p - 1), p, -1), mpi)
    if move.verb == "gather":  # each rank receives all but its own
        return gather(np.maximum(received.sum() / (p - 1) - received, 0)[None], mpi)
    if move.verb == "reduce":
        return reduce(received[None] / (p - 1), mpi)
    raise ModelparError(f"a move {move.verb!r} over {move.axis}s is not a collective")


def messages_between(move: Move, placement: Placement) -> Round:
    """The messages of a halo, a fetch or a push, of all ranks at once; numbers are those of ``node_of_rank``."""
    n_replicas, n_shards = placement.nodes.shape
    n_ranks, n_servers = n_replicas * n_shards, len(placement.servers)
    if move.verb == "halo":
        pairs = move.pairs.tocoo()
        starts = np.arange(n_replicas)[:, None] * n_shards
        source, target = ((starts + ends).reshape(-1).astype(np.int64) for ends in (pairs.row, pairs.col))
        return Round(source, target, np.tile(pairs.data.astype(float), n_replicas))
    received = np.asarray(move.received, float)
    shard = np.arange(n_ranks) % n_shards
    if n_servers:  # a shard's servers share its parameters
        each = max(1, n_servers // n_shards)
        workers = np.repeat(np.arange(n_ranks), each)
        hosts = n_ranks + (shard[:, None] * each + np.arange(each)).reshape(-1) % n_servers
        n_bytes = np.repeat(received[shard] / each, each)
    else:  # every other replica hosts a part
        workers = np.repeat(np.arange(n_ranks), n_replicas)
        hosts = (np.arange(n_replicas)[None, :] * n_shards + shard[:, None]).reshape(-1)
        others = hosts != workers
        workers, hosts = workers[others], hosts[others]
        n_bytes = received[workers % n_shards] / max(1, n_replicas - 1)
    return Round(hosts, workers, n_bytes) if move.verb == "fetch" else Round(workers, hosts, n_bytes)


def all_rounds(move: Move, placement: Placement, mpi: str = "mpich") -> Iterator[Round]:
    """The messages of a move by the numbers of ``node_of_rank``, those of all groups together."""
    if move.verb == "halo" or move.verb in SERVED:
        yield messages_between(move, placement)
        return
    groups = placement.groups(move.axis)
    last: tuple[IntArray, IntArray, IntArray, IntArray] | None = None
    for of_group in rounds_of(move, placement, mpi):
        source, target, n_bytes, pieces, adds = of_group
        if last is None or last[0] is not source or last[1] is not target:
            last = source, target, groups[:, source].reshape(-1), groups[:, target].reshape(-1)
        shape = len(groups), len(source)
        sizes = np.broadcast_to(n_bytes, shape).reshape(-1)
        cut = pieces if isinstance(pieces, float) else np.broadcast_to(pieces, shape).reshape(-1)
        yield Round(last[2], last[3], sizes, cut, adds)


def seconds(move: Move, placement: Placement, machine: Machine, mpi: str = "mpich") -> float:
    """The time of a move that all ranks begin together, every round as long as its slowest message.

    A message takes latency + bytes / bandwidth (Hockney 1994), the bandwidth between nodes shared by the messages of
    the round that leave the same node, or reach it, and divided by the oversubscription above.  Of p equal ranks, one
    on each node, this is the textbook's form: (p - 1) (latency + n / p / bandwidth) for a ring, log2 p latency +
    (p - 1) / p n / bandwidth for recursive doubling, twice that for Rabenseifner's sum.  Ranks of a node that pass on
    and receive in turn may be faster, since no rank waits for the others here between two rounds.  Raises ModelparError
    as ``rounds_of``.
    """
    node, total = placement.node_of_rank(), 0.0
    for source, target, n_bytes, pieces, adds in all_rounds(move, placement, mpi):
        start, end = node[source], node[target]
        far, full = start != end, n_bytes > 0
        time = np.where(full, pieces * machine.within.latency + n_bytes / machine.within.bandwidth, 0.0)
        if far.any():
            crossing = np.where(far, n_bytes, 0.0)
            busiest = [np.bincount(ends, crossing, placement.n_nodes)[ends] for ends in (start, end)]
            above = machine.oversubscription * crossing.sum() / max(1, placement.n_nodes)
            shared = np.maximum(np.maximum(*busiest), above) / machine.between.bandwidth
            time = np.where(far & full, pieces * machine.between.latency + shared, time)
        if not far.all():  # a rank takes what comes from its own node one by one
            queue = np.bincount(target, np.where(far, 0.0, time), len(node))[target]
            time = np.where(far, time, queue)
        total += float((time + ADD * n_bytes * adds).max(initial=0.0))
    return total
