"""What is handed to MPI: the bytes that Traffic counts, and in pieces where they are too many for one call."""

from __future__ import annotations

import copy
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import checkpoint
from modelpar.collective import messages
from modelpar.model.network import DeepBeliefNetwork
from modelpar.model.pruning import pruned
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.sync import windows
from modelpar.training.trainer import fine_tune, pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)

LAYERS = (13, 9, 5)
HELD = ("column", "row", "dual", "listed")
STATES = TrainingSpec(
    epochs=1, batch_size=16, statistics="3", reconstruction="states", pass_up="states", cache="keep", centred=False
)
TUNING = FineTuneSpec(epochs=1, batch_size=16, max_norm=0.8, dropout=0.0)


def network_of(comm, shape, held: str, **more) -> DeepBeliefNetwork:
    """Three layers and classes; ``listed``: connections that are not complete."""
    pattern = {"connections": "random:4,random:3"} if held == "listed" else {"layout": f"{held},{held},column"}
    spec = NetworkSpec(LAYERS, classes=3, seed=5, weight_scale=0.1, **pattern, **more)
    owners = [networks.owners("random", n, shape[0], i) for i, n in enumerate(LAYERS)]
    owners.append(networks.owners("blocks", 3, shape[0]))
    layout = networks.NetworkLayout.from_owners(owners, shape[0], spec.layout)
    return DeepBeliefNetwork(spec, networks.grid_of(comm.size, shape), layout)


# -- what is counted ---------------------------------------------------------------------------------------------------


class Counted(MPI.Intracomm):
    """A communicator that adds up the bytes that had to come to this rank; what is pickled tells but a few numbers."""

    def __init__(self, comm, axis: str, moved: Counter) -> None:
        self.axis, self.moved = axis, moved

    def __new__(cls, comm, axis, moved):
        return super().__new__(cls, comm)

    def Allgatherv(self, sent, received):
        values, counts = received
        self.moved[self.axis] += int(np.sum(counts) - counts[self.rank]) * values.itemsize
        super().Allgatherv(sent, received)

    def Reduce_scatter(self, sent, received, counts):
        self.moved[self.axis] += int(counts[self.rank]) * (self.size - 1) * sent.itemsize
        super().Reduce_scatter(sent, received, counts)

    def Allreduce(self, sent, values, *op):
        self.moved[self.axis] += 2 * (self.size - 1) * values.nbytes // self.size
        super().Allreduce(sent, values, *op)

    def Iallreduce(self, sent, values):
        self.moved[self.axis] += 2 * (self.size - 1) * values.nbytes // self.size
        return super().Iallreduce(sent, values)

    def Bcast(self, values, root=0):
        self.moved[self.axis] += values.nbytes * (self.rank != root)
        super().Bcast(values, root)

    def Irecv(self, values, rank, tag):
        self.moved[self.axis] += values.nbytes
        return super().Irecv(values, rank, tag)

    def Alltoallv(self, sent, received):
        raise AssertionError("not counted here: use messages.exchange")

    Reduce = Allgather = Alltoall = Recv = Sendrecv = Ibcast = Iallgatherv = Alltoallv


class CountedWindow(MPI.Win):
    """A window of vectors: what others host goes there, comes from there, or both."""

    moved: Counter
    rank: int

    def Accumulate(self, values, host, target, op):
        self._count(host, target, 1)
        super().Accumulate(values, host, target, op)

    def Get_accumulate(self, values, result, host, target, op):
        self._count(host, target, 1 if op == MPI.NO_OP else 2)
        super().Get_accumulate(values, result, host, target, op)

    def _count(self, host, target, ways: int) -> None:
        _, n, kind = target
        if kind != MPI.INT64_T and host != self.rank:  # counters are no vectors
            self.moved["replica"] += ways * n * kind.size


@pytest.fixture
def watched(comm, monkeypatch):
    """``watched(shape)`` -> a grid whose communicators count into the Counter that comes with it."""
    moved: Counter = Counter()
    plain = windows._window

    def window(its_comm, n_bytes, **how):
        made, memory = plain(its_comm, n_bytes, **how)
        counted = CountedWindow(made)
        counted.moved, counted.rank = moved, its_comm.rank
        return counted, memory

    monkeypatch.setattr(windows, "_window", window)

    def watch(shape):
        grid = copy.copy(networks.grid_of(comm.size, shape))
        grid.shard_comm = Counted(grid.shard_comm, "shard", moved)
        grid.replica_comm = grid.column_comm = Counted(grid.replica_comm, "replica", moved)
        return grid, moved

    return watch


SYNCS = {
    "allreduce": SyncSpec(), "local": SyncSpec("local", period=2, outer_momentum=0.5), "server": SyncSpec("server"),
    "adagrad": SyncSpec("server", adagrad=True, push_every=2, fetch_every=3), "warm": SyncSpec("server", warm_start=2),
}  # fmt: skip
TRAININGS = {
    "states": ("bits", {}),
    "grey": ("levels", {"cache": "recompute", "pass_up": "probabilities"}),
    "sparsity": ("bits", {"sparsity_cost": 0.3, "statistics": "float"}),
    "PCD": ("bits", {"persistent": True}),
    "all options": ("bits", {"chains": 5, "average": 4, "clip": 0.1, "l1": 0.01}),
    "means": ("levels", {"statistics": "float", "reconstruction": "probabilities", "pass_up": "probabilities"}),
}


# every strategy with two layouts
CASES = [
    ("states", "allreduce", "column"), ("sparsity", "allreduce", "dual"), ("PCD", "allreduce", "row"),
    ("grey", "allreduce", "listed"), ("grey", "local", "dual"), ("PCD", "local", "listed"),
    ("states", "server", "dual"), ("means", "server", "row"), ("sparsity", "adagrad", "listed"),
    ("grey", "warm", "column"), ("all options", "server", "row"), ("all options", "local", "listed"),
]  # fmt: skip


@pytest.mark.parametrize(("training", "sync", "held"), CASES)
@shapes
def test_every_byte_is_counted(comm, agree, watched, shape, training, sync, held, monkeypatch):
    """Steps, what hands activations up, biases, copies, scores: all that goes through the shards' and replicas' MPI."""
    kind, changes = TRAININGS[training]
    grid, moved = watched(shape)
    monkeypatch.setattr(networks, "grid_of", lambda *_: grid)
    network = network_of(comm, shape, held)
    data = small.dataset(13, kind=kind, held_out=True)
    for _ in pretrain(network, data, replace(STATES, **changes), SYNCS[sync]):
        pass
    for _ in fine_tune(network, data, TUNING, SYNCS[sync]):
        pass
    counted: Counter = Counter()
    for counts in (network.traffic.counts, network.traffic.upkeep, network.traffic.measures):
        for (axis, _, _), n_bytes in counts.items():
            counted[axis] += n_bytes
    agree(+counted == +moved, f"{dict(counted)} counted, {dict(moved)} moved")
    agree((counted["shard"] > 0) == (shape[0] > 1) and (counted["replica"] > 0) == (shape[1] > 1))


@shapes
def test_what_is_kept_apart(comm, agree, shape):
    """Copies and scores are no steps of training: whoever predicts these finds them alone."""
    network = network_of(comm, shape, "dual")
    data = small.dataset(13, held_out=True)
    for _ in pretrain(network, data, STATES):
        pass
    result = {of: network.traffic.total(comm, of) for of in ("counts", "upkeep", "measures")}
    agree(set(result["counts"]["shard"]) == ({"gather"} if shape[0] > 1 else set()), str(result))
    agree(set(result["upkeep"]["shard"]) == ({"refresh"} if shape[0] > 1 else set()), str(result))
    agree(set(result["counts"]["replica"]) == ({"allreduce", "gather"} if shape[1] > 1 else set()), str(result))
    agree(set(result["upkeep"]["replica"]) == ({"broadcast", "biases"} if shape[1] > 1 else set()), str(result))
    agree(bool(result["measures"]["shard"]) == (shape[0] > 1), str(result))
    before = network.traffic.total(comm)
    with network.traffic.measuring():
        network.propagate_up(np.zeros((len(network.visible_ids), 3), np.float32))
    agree(network.traffic.total(comm) == before)


# -- in pieces ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [1, 7, 40])
@pytest.mark.parametrize("dtype", ["uint64", "float32", "int8"])
def test_the_verbs_in_pieces(comm, agree, monkeypatch, limit, dtype):
    """So few bytes fit into a message that next to nothing does."""
    monkeypatch.setattr(messages, "LIMIT", limit)
    rows = [3 * rank for rank in range(comm.size)]
    mine = slice(sum(rows[: comm.rank]), sum(rows[: comm.rank + 1]))
    all_of_them = (np.arange(5 * sum(rows)) % 11).reshape(-1, 5).astype(dtype)
    whole = np.zeros_like(all_of_them)
    whole[mine] = all_of_them[mine]
    messages.gather_rows(comm, whole, rows)
    agree(np.array_equal(whole, all_of_them), "gather")
    own = np.zeros((rows[comm.rank], 5), dtype)
    messages.reduce_rows(comm, all_of_them, own, rows)
    agree(np.array_equal(own, all_of_them[mine] * comm.size), "reduce")
    messages.allreduce(comm, whole)
    agree(np.array_equal(whole, all_of_them * comm.size), "allreduce")
    values = np.full((3, 4), comm.rank, dtype)
    messages.bcast(comm, values, comm.size - 1)
    agree(bool((values == comm.size - 1).all()), "bcast")
    sent = [np.full((comm.rank, q), 10 * comm.rank + q, dtype) for q in range(comm.size)]
    received = [np.zeros((q, comm.rank), dtype) for q in range(comm.size)]
    messages.exchange(comm, sent, received)
    agree(all((part == 10 * q + comm.rank).all() for q, part in enumerate(received)), "exchange")
    result = messages.concatenated(comm, np.full(comm.rank, comm.rank, dtype))
    agree(result.tolist() == [rank for rank in range(comm.size) for _ in range(rank)], "concatenated")
    sent = [np.arange(6.0).reshape(2, 3), np.ones(3, bool), np.zeros(0, np.int32), np.arange(3, dtype=">i4")]
    for mine_, other in zip(messages.bcast_arrays(comm, sent if comm.rank == 0 else None), sent, strict=True):
        agree(mine_.dtype == other.dtype and np.array_equal(mine_, other), "told")


@pytest.mark.slow
@pytest.mark.parametrize("held", HELD)
@shapes
def test_training_in_pieces_is_the_same_training(comm, agree, monkeypatch, shape, held, tmp_path):
    """Bit for bit, with its checkpoint, and what is pruned of it."""
    folder, made = comm.bcast(tmp_path), []
    data = small.dataset(13, held_out=True)
    for name in ("whole", "pieces"):
        if name == "pieces":
            monkeypatch.setattr(messages, "LIMIT", 20)
        network = network_of(comm, shape, held, exact=True)
        small.train(network, data, STATES, replace(TUNING, max_norm=0.0))
        smaller = pruned(network, 0.5)
        for one, kind in ((network, "model"), (smaller, "pruned")):
            checkpoint.save(one, folder / f"{name}.{kind}")
            opened = checkpoint.load(folder / f"{name}.{kind}", network.grid, one.layout)
            pairs = zip(opened.parts(), one.parts(), strict=True)
            agree(all(np.array_equal(a.parameters.flat, b.parameters.flat) for a, b in pairs))
        made.append([(folder / f"{name}.{kind}").read_bytes() for kind in ("model", "pruned")])
    agree(made[0] == made[1])
