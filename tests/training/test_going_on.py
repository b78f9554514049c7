"""Going on differently than one began: other minibatches, PCD switched off, early stopping switched off, a refusal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.grid import Grid
from modelpar.errors import DataError, GridError, ModelparError, SpecError, raise_together
from modelpar.spec import FineTuneSpec, NetworkSpec, TrainingSpec
from modelpar.training.state import Position
from modelpar.training.trainer import fine_tune, pretrain
from tests import networks, small

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
PCD = TrainingSpec(epochs=1, batch_size=8, persistent=True, learning_rate=0.05)
shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)


@shapes
@pytest.mark.parametrize("batch_size", [5, 20])
def test_pcd_with_other_minibatches_starts_as_many_chains(comm, agree, shape, batch_size):
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64"), shape, "strided")
    data = small.dataset(13)
    for record in pretrain(network, data, PCD):
        if record.kind == "epoch":
            break  # the chains are put away with the stage
    other = replace(PCD, epochs=2, batch_size=batch_size)
    for record in pretrain(network, data, other):
        if record.kind == "step":
            n_chains = network.grid.replica_comm.allreduce(network.run.chains.h.shape[1])
            agree(n_chains == batch_size, f"{n_chains} chains")


@shapes
def test_pcd_switched_off_is_cd(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64"), shape, "strided")
    data = small.dataset(13)
    for record in pretrain(network, data, PCD):
        if record.kind == "epoch":
            break
    records = list(pretrain(network, data, replace(PCD, epochs=2, persistent=False)))
    agree(records and np.isfinite(records[-1].measures["reconstruction_error"]))


@shapes
def test_early_stopping_switched_off_keeps_what_was_trained(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7), classes=3, dtype="float64"), shape, "blocks")
    data = small.dataset(13)
    data = replace(data, validation=data.train)
    for record in fine_tune(network, data, FineTuneSpec(epochs=1, batch_size=8, patience=5)):
        if record.kind == "epoch":
            break
    first = network.rbms[0].W.copy()
    for _ in fine_tune(network, data, FineTuneSpec(epochs=4, batch_size=8)):
        last = network.rbms[0].W.copy()
    agree(np.array_equal(network.rbms[0].W, last))
    agree(not network.grid.comm.allreduce(bool(last.size) and np.array_equal(first, last), MPI.LAND))


@shapes
def test_a_refused_fine_tuning_leaves_pretraining_as_it_was(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7), classes=3), shape, "blocks")
    data = small.dataset(13)
    with pytest.raises(SpecError, match="--validation-fraction"):
        list(fine_tune(network, data, FineTuneSpec(patience=2)))
    agree(network.run.position.stage == "pretrain")
    agree(len(list(pretrain(network, data, TrainingSpec(epochs=1, batch_size=8)))) > 0)
    agree(network.run.position == Position("finetune"))


def test_all_ranks_raise_the_same(comm, agree):
    error = DataError("only here") if comm.rank == comm.size - 1 else None
    with pytest.raises(DataError, match="only here"):
        raise_together(comm, error)
    error = FileNotFoundError(2, "No such file", "there") if comm.rank == 0 else None
    with pytest.raises(ModelparError, match="there: No such file"):
        raise_together(comm, error)


def test_a_grid_is_freed_after_an_error_that_all_ranks_have(comm, agree):
    """MPICH has about 2000 communicators: leaking four each time would end this."""
    for _ in range(520):
        with pytest.raises(GridError), Grid(comm):
            raise GridError("all ranks have it")
    grid = Grid(comm)
    grid.free()
    grid.free()
    agree(grid.comm == MPI.COMM_NULL)


def test_a_split_of_other_rows_has_its_own_statistics(comm, agree):
    data = small.dataset(13)
    ids = np.arange(13)
    whole = data.train.summary(ids).mean
    few = replace(data.train, rows=data.train.rows[:3], labels=None).summary(ids).mean
    values = np.empty((13, 3))
    data.train.table.columns(ids).fill(data.train.rows[:3], values)
    agree(np.allclose(few, values.mean(axis=1)) and not np.allclose(few, whole))
