"""Replicas that are apart are found, named and repaired, and memory that changes at rest is; `tests.flips` has more.

Modules: modelpar/training/checks
"""

from __future__ import annotations

import re
import warnings

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.checkpoint import load
from modelpar.cli import run
from modelpar.cli.session import Session
from modelpar.errors import CorruptionError, ModelparWarning
from modelpar.spec import FineTuneSpec, NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.checks import check_before_saving
from modelpar.training.replicas import (
    Difference,
    check_replicas,
    differing_replicas,
    parameters_of,
    said,
    tensors_of,
)
from modelpar.training.state import TrainingRun
from modelpar.training.trainer import fine_tune, pretrain
from modelpar.weights.dense import ColumnWeights, RowWeights
from tests import flips, networks, small

pytestmark = pytest.mark.ranks(2, 4)

SHAPES = [shape for shape in networks.grids(MPI.COMM_WORLD) if shape[1] > 1]
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)


def steps_until_found(network, how, training, flip, message) -> int:
    """Updates until training ends because of ``flip(record, updates so far)``, which is called after each record."""
    done = 0

    def consume():
        nonlocal done
        for record in pretrain(network, small.dataset(13), training, how):
            done += record.n_updates if record.kind == "step" else 0
            if (network.grid.replica, network.grid.shard) == (1, 0):
                flip(record, done)

    with pytest.raises(CorruptionError, match=re.escape(message)) as caught:
        consume()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert network.grid.comm.bcast(str(caught.value)) == str(caught.value), "all ranks raise the same"
    return done


# -- what is said ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("groups", "majority", "expected"),
    [
        (((0, 2), (1,)), (0, 2), "replica 1 differs from the other 2 in rbm.0.W and rbm.0.b of shard 1"),
        (((0, 2, 4), (3,), (1,)), (0, 2, 4), "replicas 1 and 3 differ from the other 3 in rbm.0.W and rbm.0.b of"),
        (((0,), (1,)), (), "replicas 0 and 1 differ in rbm.0.W and rbm.0.b of shard 1"),
        (((0, 2), (1, 3)), (), "replicas 0, 1, 2 and 3 differ in rbm.0.W and rbm.0.b of shard 1"),
    ],
)
def test_who_is_apart(groups, majority, expected):
    differences = [Difference(tensor, 1, groups) for tensor in ("rbm.0.W", "rbm.0.b")]
    assert differences[0].majority == majority
    assert said(differences).startswith(expected)


def test_many_differences_are_still_one_line():
    differences = [Difference(f"rbm.{i}.W", shard, ((0, 2), (1,))) for shard in range(9) for i in range(9)]
    assert len(said(differences)) < 300
    assert said(differences).endswith("6 more")


# -- single bits -------------------------------------------------------------------------------------------------------


@shapes
def test_a_flipped_bit_is_named_and_repaired(comm, agree, shape):
    """Wherever it flips: two replicas have no majority, more of them end as if it had not."""
    grid, data, rng = networks.grid_of(comm.size, shape), small.dataset(13), np.random.default_rng(7)
    how = SyncSpec(check_replicas=1, repair=True)
    _, nothing, undisturbed = flips.trained(grid, data, how)
    agree(not nothing, nothing)
    for _ in range(3):
        flip = flips.random_flip(rng, grid)
        one = flips.outcome(grid, data, how, flip, undisturbed)
        agree(flips.names(one, flip, grid), f"{flip}: {one}")
        agree(one.same_end == (shape[1] > 2), f"{flip}: {one}")
        agree(shape[1] > 2 or "2 replicas do not have" in one.said, one.said)


@pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids="{0[0]}x{0[1]}".format)
def test_memory_that_changes_at_rest_is_named(comm, agree, shape):
    grid, data, rng = networks.grid_of(comm.size, shape), small.dataset(13), np.random.default_rng(3)
    how = SyncSpec(check_replicas=0, check_memory=True)
    _, nothing, undisturbed = flips.trained(grid, data, how)
    agree(not nothing, nothing)
    flip = flips.random_flip(rng, grid)
    one = flips.outcome(grid, data, how, flip, undisturbed)
    agree(one.said.startswith("stopped") and flips.names(one, flip, grid), f"{flip}: {one}")


@shapes
def test_without_repair_training_stops(comm, agree, shape):
    """By default too, at the end of a stage where there were fewer updates than between two comparisons."""
    training = TrainingSpec(epochs=2, batch_size=10)
    for how, steps in ((SyncSpec(check_replicas=2), 4), (SyncSpec(), 8)):
        network = networks.sharded(comm, NetworkSpec((13, 9), seed=5), shape, "strided")

        def flip(record, done, c=network.rbms[0].c):
            if done == 3:
                c.view(np.uint32)[0] ^= 1 << 30

        message = "rbm.0.c of shard 0: an error of memory or of a processor"
        done = steps_until_found(network, how, training, flip, message)
        agree(done == steps, f"found after {done} updates")


def test_each_tensor_has_a_majority_of_its_own(comm, agree):
    if comm.size < 3:
        pytest.skip("two replicas have no majority")
    network = networks.sharded(comm, NetworkSpec((13, 9, 5), seed=5), (1, comm.size), "blocks")
    before = [part.parameters.flat.copy() for part in network.parts()]
    network.parts()[comm.rank % 2].parameters.flat[comm.rank] += comm.rank < 2
    agree({one.apart for one in differing_replicas(network)} == {(0,), (1,)})
    with pytest.warns(ModelparWarning, match="repaired") if comm.rank == 0 else warnings.catch_warnings():
        check_replicas(network, mend=True)
    agree(not differing_replicas(network))
    after = [part.parameters.flat for part in network.parts()]
    agree(all(np.array_equal(a, b) for a, b in zip(before, after, strict=True)))


# -- no false alarm ----------------------------------------------------------------------------------------------------

STRATEGIES = {
    "allreduce": SyncSpec(check_replicas=1, check_memory=True),
    "local": SyncSpec("local", period=3, outer_momentum=0.5, check_replicas=1, check_memory=True),
    "server": SyncSpec("server", meet_every=2, check_replicas=1, check_memory=True),
    "adagrad": SyncSpec("server", adagrad=True, check_replicas=1, check_memory=True),
}
OPTIONS = [
    ({"layout": "dual"}, {"statistics": "float", "average": 3, "l1": 0.001, "clip": 1.0}),
    ({"connections": "random:4,dense"}, {"chains": 8, "chain_method": "ptt", "chain_temperatures": 3, "average": 2}),
    ({"layout": "row", "dtype": "float64"}, {"sparsity_cost": 0.1, "standardised": True}),
]


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")
@shapes
@pytest.mark.parametrize("name", STRATEGIES)
@pytest.mark.parametrize(("how", "training"), OPTIONS, ids=["dual", "listed", "row"])
def test_replicas_that_are_well_are_alike_where_they_meet(comm, agree, tmp_path, shape, name, how, training):
    network = networks.sharded(comm, NetworkSpec((13, 9, 5), classes=3, seed=5, **how), shape, "strided")
    data, sync = small.dataset(13, held_out=True), STRATEGIES[name]
    rate = 0.02 if name == "adagrad" else 0.1
    spec = TrainingSpec(epochs=2, batch_size=10, learning_rate=rate, **training)
    for record in pretrain(network, data, spec, sync):
        if record.step == 2:  # perhaps in the middle of a period
            check_before_saving(network, mend=False)
    for _ in fine_tune(network, data, FineTuneSpec(epochs=2, batch_size=10, max_norm=0.7, patience=2), sync):
        pass
    agree(not differing_replicas(network))


@pytest.mark.filterwarnings("ignore::modelpar.errors.ModelparWarning")
@shapes
def test_lengths_that_replicas_round_otherwise(comm, agree, monkeypatch, shape):
    """Sums over the shards of a replica may be rounded by where its ranks are."""
    network = networks.sharded(comm, NetworkSpec((13, 9), classes=3, seed=5), shape, "blocks")
    for kind in (ColumnWeights, RowWeights):

        def rounded(self, sums, once=kind._sum_incoming):
            once(self, sums)
            sums *= np.float32(1 + network.grid.replica * 1e-6)

        monkeypatch.setattr(kind, "_sum_incoming", rounded)
    tuning = FineTuneSpec(epochs=1, batch_size=10, max_norm=0.3)
    for _ in fine_tune(network, small.dataset(13), tuning, SyncSpec(check_replicas=1)):
        pass
    agree(not differing_replicas(network))


@shapes
@pytest.mark.parametrize("name", ["local", "server"])
def test_a_replica_that_leaves_a_meeting_apart_is_found(comm, agree, shape, name):
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5), shape, "blocks")

    def flip(record, done):
        if record.kind == "epoch" and record.epoch == 1:
            network.run.velocity["rbm.0"].W.view(np.uint32)[0, 0] ^= 1

    training = TrainingSpec(epochs=3, batch_size=10)
    done = steps_until_found(network, SyncSpec(name, check_replicas=1), training, flip, "velocity.rbm.0.W of shard 0")
    agree(done == 4, f"found after {done} updates")


def test_all_that_a_checkpoint_keeps_is_compared(comm, agree):
    network = networks.sharded(comm, NetworkSpec((13, 9), seed=5, layout="dual"), SHAPES[0], "blocks")
    for record in pretrain(network, small.dataset(13), TrainingSpec(epochs=1, batch_size=10, average=5)):
        if record.kind == "step":
            break
    run = TrainingRun.of(network)
    agree({"rbm.0", "velocity.rbm.0", "average.rbm.0"} == parameters_of(network).keys())
    for tensor, values in tensors_of(parameters_of(network)).items():
        if values.size:
            values.reshape(-1)[-1] += network.grid.replica
        found = {one.tensor for one in differing_replicas(network)}
        agree(found == ({tensor} if network.grid.shard_comm.allreduce(values.size) else set()), f"{tensor}: {found}")
        if values.size:
            values.reshape(-1)[-1] = 0.0
    agree(run.sync is None)


# -- files -------------------------------------------------------------------------------------------------------------


def test_no_checkpoint_is_written_of_replicas_apart(comm, agree, tmp_path, monkeypatch, capfd):
    """One line that names the replica, a status that lets a loop try again, and a last checkpoint from before."""
    where = comm.bcast(tmp_path) / "run"
    keep, steps = Session._keep, []

    def flip(session):
        keep(session)
        steps.append(0)
        if len(steps) == 5 and (session.grid.replica, session.grid.shard) == (1, 0):
            session.network.rbms[0].W.reshape(-1).view(np.uint32)[5] ^= 1 << 3

    monkeypatch.setattr(Session, "_keep", flip)
    words = "train --data bars:3 --layers 9-8 --batch-size 2 --epochs 4 --replicas 2 --checkpoint-every 3 --keep 9"
    size = comm.size // 2 * 2
    team = comm.Split(0 if comm.rank < size else MPI.UNDEFINED, comm.rank)
    if team == MPI.COMM_NULL:
        status, written = 1, 1
    else:
        status = run(team, [*words.split(), "--no-pictures", "--pretrain-only", "--no-score", "--run-dir", str(where)])
        files = sorted((where / "checkpoints").iterdir())
        written = len(files)
        team.barrier()
        if team.rank == 0:
            error = capfd.readouterr().err
            assert error.count("modelpar: error: RBM 0, after step ") == 1, error
            assert f"; the last good checkpoint is {files[-1]}" in error, error
            assert "replicas 0 and 1 differ in rbm.0.W" in error, error
        team.Free()
    agree(status == 1 and written == 1, f"status {status}, {written} checkpoints")
    newest = comm.bcast(sorted((where / "checkpoints").iterdir())[-1])
    agree(not differing_replicas(load(newest, networks.grid_of(comm.size, (1, comm.size)))))
