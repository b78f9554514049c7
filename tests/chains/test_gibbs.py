"""Chains that belong to no sample: where they start, and that they are the same at every grid.

Modules: modelpar/training/chain_supply
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, TrainingSpec, checkpoint, pretrain
from modelpar.chains.gibbs import Chains, start
from modelpar.errors import SpecError
from modelpar.kernels.states import unpack
from modelpar.spec import NetworkSpec
from tests import networks, small

pytestmark = pytest.mark.ranks

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)
SPEC = TrainingSpec(epochs=2, batch_size=16, learning_rate=0.1, chains=11, chain_steps=2)


def whole(network, chains: Chains) -> np.ndarray:
    """(n_hidden, all chains) on every rank."""
    mine = chains.collect(network.grid.replica_comm, np.int64)["chains"]
    rbm = network.rbms[0]
    result = np.zeros((network.spec.layers[1], mine.shape[1]), np.int64)
    result[rbm.hidden_ids] = mine
    return network.grid.shard_comm.allreduce(result)


def matrix(network) -> np.ndarray:
    """W of the first RBM on every rank."""
    weights = network.rbms[0].weights
    result = np.zeros(network.spec.layers[:2])
    result[np.ix_(weights.visible_rows, weights.hidden_columns)] = network.rbms[0].W
    return network.grid.shard_comm.allreduce(result)


@shapes
@pytest.mark.parametrize("visible", ["bernoulli", "gaussian"])
def test_random_starts_have_the_published_draws(comm, agree, shape, visible):
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64", visible=visible), shape, "random")
    [twin], rbm, grid = networks.twin(network), network.rbms[0], network.grid
    for how, update in (("random", 0), ("random", 3), ("biases", 3)):
        twin.start_chains(11, how, update)
        result = whole(network, start(rbm, how, grid.replica, grid.n_replicas, 11, update=update))
        agree(np.array_equal(result, twin.chains), how)


@shapes
def test_starts_at_the_data_are_hidden_states_of_samples(comm, agree, shape):
    """Every chain starts at another sample, and where there are more chains than samples, they come again."""
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64"), shape, "strided")
    [twin], data, seen = networks.twin(network), small.dataset(13), []
    network.rbms[0].W[...] *= 100
    network.refresh()
    twin.W *= 100
    training = replace(SPEC, chains=50, chain_start="data", learning_rate=0.0, epochs=1, chain_steps=1)

    def advance(self, rbm, first_draw, spec):
        seen.append(whole(network, self))
        return original(self, rbm, first_draw, spec)

    original = Chains.advance
    Chains.advance = advance  # type: ignore[method-assign]
    try:
        for _ in pretrain(network, data, training):
            pass
    finally:
        Chains.advance = original  # type: ignore[method-assign]
    # with weights as large as these every hidden unit is all but certain
    p = twin.hidden(small.columns(data))
    certain = ((p < 0.01) | (p > 0.99)).all(axis=0)
    agree(certain.sum() > 10)
    patterns = {tuple(column) for column in np.round(p).astype(int)[:, certain].T}
    starts = {tuple(column) for column in seen[0].T}
    agree(patterns <= starts)


@shapes
def test_chains_go_on_from_a_checkpoint_at_another_grid(comm, agree, shape, tmp_path):
    """Exact runs are compared byte by byte elsewhere; here a wider run is cut in the middle of an epoch."""
    path = comm.bcast(tmp_path) / "middle.safetensors"
    data = small.dataset(13)
    spec = NetworkSpec((13, 7), dtype="float64", seed=3)
    training = replace(SPEC, average=3, centred=True)
    other = networks.grids(MPI.COMM_WORLD)[0]
    first = networks.sharded(comm, spec, other, "blocks")
    for record in pretrain(first, data, training):
        if (record.kind, record.step) == ("step", 4):
            checkpoint.save(first, path)
    grid = networks.grid_of(comm.size, shape)
    second = checkpoint.load(path, grid, networks.layout_of(spec, grid.n_shards, "random"))
    agree(second.run.chains.n_all == 11)
    for _ in pretrain(second, data, training):
        pass
    agree(np.allclose(matrix(second), matrix(first), atol=1e-9))
    # used beside training, a checkpoint in the middle is the average
    used = checkpoint.load(path, grid, networks.layout_of(spec, grid.n_shards, "random"), to_train=False)
    agree(not used.run.average and used.run.chains is None)


@shapes
def test_a_stage_counted_in_updates_ends_at_the_last(comm, agree, shape):
    network = networks.sharded(comm, NetworkSpec((13, 7, 5)), shape, "blocks")
    training = replace(SPEC, updates=7, schedule="linear", final_rate=0.0)
    records = list(pretrain(network, small.dataset(13), training))
    for layer in (0, 1):
        steps = [r.step for r in records if (r.kind, r.layer) == ("step", layer)]
        ends = [(r.step, r.samples) for r in records if (r.kind, r.layer) == ("epoch", layer)]
        agree(steps == list(range(1, 8)) and ends == [(3, 40), (6, 40), (7, 16)], f"{steps} {ends}")
        agree(all(r.steps == 7 for r in records))
    # the last update has the end of the schedule, a rate of 0
    agree(records[-1].measures["learning_rate"] == 0.0)


def test_chains_go_on_or_start_anew():
    with pytest.raises(SpecError, match="exclude each other"):
        TrainingSpec(persistent=True, chain_restart=True)


def test_one_sweep_of_given_chains_by_hand():
    """Without weights a sweep draws both sides from their biases alone."""
    with Grid(MPI.COMM_SELF) as grid:
        rbm = DeepBeliefNetwork(NetworkSpec((6, 4)), grid).rbms[0]
        rbm.W[...] = 0
        rbm.b[...] = [30, -30, 30, -30, 30, -30]
        rbm.c[...] = [-30, 30, 30, -30]
        phase, h = start(rbm, "random", 0, 1, 9).advance(rbm, 0, SPEC)
    assert np.array_equal(unpack(phase.v), np.repeat([[1], [0], [1], [0], [1], [0]], 9, axis=1))
    assert np.array_equal(unpack(h), np.repeat([[0], [1], [1], [0]], 9, axis=1))
