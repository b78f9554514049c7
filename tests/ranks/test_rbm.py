"""One RBM over shards and replicas against the reference: bit for bit where sums are exact, to rounding elsewhere."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.data.minibatches import Minibatches
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync
from tests import networks

SHAPES = networks.grids(MPI.COMM_WORLD)
BATCH = 16

# dyadic rates and states for statistics: all parameters stay multiples of a power of two
EXACT = TrainingSpec(
    statistics="1", reconstruction="states", learning_rate=0.25, weight_decay=0.0, momentum=0.5, initial_momentum=0.5,
    batch_size=BATCH,
)  # fmt: skip


def train(network, twin, spec, n_steps, batch=BATCH):
    """The same minibatches through both; returns the reference."""
    rbm, grid = network.rbms[0], network.grid
    sync = AllreduceSync(grid.replica_comm, network.traffic)
    update = rbm.parameters.like()
    mine = Minibatches.share(batch, grid.replica, grid.n_replicas)
    chains = rbm.start_chains(mine.start, mine.stop - mine.start) if spec.persistent else None
    twin.start_chains(batch)
    rng = np.random.default_rng(11)
    errors = []
    for step in range(n_steps):
        v0 = (rng.random((len(twin.b), batch)) < 0.4).astype(network.dtype)
        n = step * batch
        error = rbm.contrastive_divergence(
            np.ascontiguousarray(v0[rbm.visible_ids][:, mine]), n + mine.start, update, spec,
            spec.learning_rate / sync.divisor(mine.stop - mine.start, batch), 0.5 * sync.momentum_share, chains,
            n_all_samples=batch,
        )  # fmt: skip
        sync.step(rbm.parameters, update, spec.learning_rate * spec.weight_decay)
        expected = twin.update(v0, n, spec, spec.learning_rate, 0.5)
        errors.append((grid.comm.allreduce(error) / v0.size, expected))
    return errors


@pytest.mark.parametrize("held", ["column", "row"])
@pytest.mark.parametrize("owners", networks.OWNERS)
@pytest.mark.parametrize("shape", SHAPES, ids="shards x replicas = {0[0]}x{0[1]}".format)
def test_steps_equal_the_reference_bit_for_bit(comm, agree, shape, owners, held):
    network = networks.sharded(comm, NetworkSpec((13, 7), layout=held), shape, owners)
    [twin] = networks.twin(network)
    train(network, twin, EXACT, n_steps=3)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("held", ["column", "row"])
@pytest.mark.parametrize(
    "changes",
    [{"gibbs_steps": 3}, {"persistent": True}, {"persistent": True, "gibbs_steps": 2}],
    ids=["CD-3", "PCD", "PCD-2"],
)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_longer_chains_equal_the_reference_bit_for_bit(comm, agree, shape, changes, held):
    network = networks.sharded(comm, NetworkSpec((9, 14), layout=held), shape, "random")
    [twin] = networks.twin(network)
    train(network, twin, replace(EXACT, **changes), n_steps=3)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("held", ["column", "row"])
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"reconstruction": "states"},
        {"weight_decay": 0.01},
        {"gibbs_steps": 2},
        {"sparsity_cost": 0.5},
        {"persistent": True},
    ],
    ids=str,
)
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_real_statistics_equal_the_reference_to_rounding(comm, agree, shape, visible, changes, held):
    spec = NetworkSpec((13, 7), layout=held, visible=visible, dtype="float64")
    network = networks.sharded(comm, spec, shape, "strided")
    [twin] = networks.twin(network)
    rate = 0.02 if visible == "gaussian" else 0.2
    errors = train(network, twin, TrainingSpec(learning_rate=rate, **changes), n_steps=4)
    agree(networks.close_block(network.rbms[0], twin, 1e-12))
    agree(np.allclose([e for e, _ in errors], [e for _, e in errors], rtol=1e-9, equal_nan=True))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_a_minibatch_smaller_than_the_number_of_replicas(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7)), shape, "blocks")
    [twin] = networks.twin(network)
    train(network, twin, replace(EXACT, persistent=True), n_steps=2, batch=2)
    agree(networks.same_block(network.rbms[0], twin))


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("owners", networks.OWNERS)
def test_initial_weights_are_the_same_at_every_grid(comm, agree, shape, owners):
    spec = NetworkSpec((13, 7), seed=5, dtype="float64")
    [rbm] = networks.sharded(comm, spec, shape, owners).rbms
    expected = networks.reference.initial_weights(5, 0, 13, 7, spec.weight_scale)
    mine = expected[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]
    agree(np.allclose(rbm.W, mine, rtol=1e-9, atol=1e-12))
