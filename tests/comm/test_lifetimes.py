"""Communicators and windows are freed: by ``free``, and where nobody refers to them any more, on all their ranks."""

from __future__ import annotations

import gc

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, NetworkSpec
from modelpar.comm import lifetimes
from modelpar.comm.grid import Grid
from modelpar.errors import GridError
from modelpar.spec import SyncSpec, TrainingSpec
from modelpar.sync.windows import SharedArrays
from modelpar.training.trainer import pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks(1, 3)

NAMES = ("comm", "shard_comm", "replica_comm", "node_comm")


@pytest.fixture
def freed_by_mpi():
    """A function that marks communicators or windows, and the list of those marked that MPI has freed since."""
    gone: list[str] = []
    keys = {kind: kind.Create_keyval(delete_fn=lambda item, key, name: gone.append(name))
            for kind in (MPI.Intracomm, MPI.Win)}  # fmt: skip

    def mark(item, name):
        item.Set_attr(keys[type(item)], name)

    yield mark, gone
    for kind, key in keys.items():
        kind.Free_keyval(key)


def settled(comm):
    """Nothing that was dropped before is left; the number of objects that are alive."""
    gc.collect()
    lifetimes.free_dropped(comm)
    return lifetimes.in_use()


@pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids="{0[0]}x{0[1]}".format)
def test_a_grid_that_nobody_refers_to_is_freed_with_the_next(comm, agree, freed_by_mpi, shape):
    mark, gone = freed_by_mpi
    before = settled(comm)
    grid = Grid(comm, model_shards=shape[0], replicas=shape[1])
    for name in NAMES:
        mark(getattr(grid, name), name)
    if comm.rank == 0:
        del grid  # the others have it still
        gc.collect()
    lifetimes.free_dropped(comm)
    agree(comm.size == 1 or "comm" not in gone, "freed while other ranks refer to it")
    grid = None
    other = Grid(comm)
    agree(sorted(gone) == sorted(NAMES), f"{gone}")
    other.free()
    agree(settled(comm) == before, f"{before}, but now {lifetimes.in_use()}")


def test_communicators_live_as_long_as_whoever_uses_them(comm, agree, freed_by_mpi):
    mark, gone = freed_by_mpi
    shard_comm = Grid(comm).shard_comm
    mark(shard_comm, "shard_comm")
    Grid(comm).free()
    agree(not gone and shard_comm.allreduce(1) == comm.size)
    shard_comm = None
    Grid(comm).free()
    agree(gone == ["shard_comm"])


def test_free_frees_at_once_and_once(comm, agree, freed_by_mpi):
    mark, gone = freed_by_mpi
    before = settled(comm)
    with Grid(comm) as grid:
        mark(grid.replica_comm, "replica_comm")
        held = grid.replica_comm  # of somebody else
    agree(gone == ["replica_comm"] and held == MPI.COMM_NULL)
    grid.free()
    agree(settled(comm) == before)


def test_ranks_drop_in_any_order(comm, agree):
    """Freeing is collective, so all ranks free in one order, whatever the order in which they drop."""
    before = settled(comm)
    grids = [Grid(comm) for _ in range(4)]
    for _ in range(4):
        grids.pop(0 if comm.rank % 2 else -1)
        lifetimes.free_dropped(comm)
    agree(settled(comm) == before, f"{before}, but now {lifetimes.in_use()}")


def test_grids_of_some_ranks(comm, agree):
    before = settled(comm)
    half = comm.Split(comm.rank % 2, comm.rank)
    Grid(half)
    Grid(MPI.COMM_SELF)
    agree(settled(comm) == before, f"{before}, but now {lifetimes.in_use()}")
    half.Free()


def test_windows(comm, agree, freed_by_mpi):
    mark, gone = freed_by_mpi
    before = settled(comm)
    arrays = SharedArrays(comm, [0], 10, np.float32, 1, 1)
    mark(arrays._window, "vectors")
    arrays.add(0, np.ones(10, np.float32))
    del arrays  # as after an exception that only one rank sees
    agree(settled(comm) == before, f"{before}, but now {lifetimes.in_use()}")
    agree(gone == ["vectors"])


@pytest.mark.parametrize("sync", ["allreduce", "server"])
def test_networks_and_their_training_leave_nothing(comm, agree, sync):
    before = settled(comm)
    for _ in range(3):
        network = DeepBeliefNetwork(NetworkSpec((13, 5), classes=3), Grid(comm, model_shards=1))
        for _ in pretrain(network, small.dataset(13), TrainingSpec(epochs=1, batch_size=20), SyncSpec(sync)):
            pass
    network = None
    agree(settled(comm) == before, f"{before}, but now {lifetimes.in_use()}")


def test_no_room_for_another_grid_is_one_line(comm, monkeypatch):
    class Full(MPI.Intracomm):
        def Split(self, *how):
            raise MPI.Exception(MPI.ERR_INTERN)

    with pytest.raises(GridError, match="MPI cannot make the communicators of another grid") as caught:
        Grid(Full(comm))
    assert "\n" not in str(caught.value)
