"""Free energies and likelihoods against sums over all states, written out in NumPy, at every grid of the ranks."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.chains.gibbs import start
from modelpar.comm.exchange import Traffic
from modelpar.kernels.states import pack
from modelpar.likelihood.energy import free_energy, log_likelihood
from modelpar.likelihood.enumeration import log_partition_exact
from modelpar.spec import TrainingSpec
from modelpar.sync import AllreduceSync
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from tests.likelihood.cases import (
    all_states,
    each_grid,
    each_kind,
    each_owner,
    exact_log_partition,
    log_sum_over_hidden,
    same_everywhere,
)

pytestmark = pytest.mark.ranks


@each_grid
@each_kind
@each_owner
def test_free_energy_is_the_sum_over_hidden_states(comm, agree, case, n_shards, gaussian, owners, hold):
    it = case(n_shards, gaussian=gaussian, owners=owners, hold=hold)
    v = np.random.default_rng(0).random((7, 9))
    energy = free_energy(it.rbm, it.mine(v))
    agree(np.allclose(energy, -log_sum_over_hidden(it.whole, v), rtol=1e-12))
    agree(same_everywhere(comm, energy))


@each_grid
def test_probabilities_of_all_visible_states_sum_to_one(comm, agree, case, n_shards):
    it = case(n_shards)
    v = all_states(7)
    log_z = log_partition_exact(it.rbm)
    agree(np.isclose(np.exp(-free_energy(it.rbm, it.mine(v)) - log_z).sum(), 1))
    mine = it.share(v.shape[1])
    mean = log_likelihood(it.rbm, it.mine(v[:, mine]), log_z)
    agree(np.isclose(mean, (log_sum_over_hidden(it.whole, v) - exact_log_partition(it.whole)).mean()))
    agree(same_everywhere(comm, mean))


@each_grid
@pytest.mark.parametrize("persistent", [False, True], ids=["cd", "pcd"])
def test_training_raises_the_exact_likelihood(agree, case, n_shards, persistent):
    """The engine's updates, judged by the exact likelihood of the data, and equal to the reference's at every step."""
    it = case(n_shards)
    it.whole.W *= 0.01
    it.rbm.W[...] *= 0.01
    data = (np.random.default_rng(5).random((7, 40)) < np.array([0.9, 0.9, 0.1, 0.1, 0.5, 0.5, 0.5])[:, None]) * 1.0
    data[4] = data[5]
    mine = it.share(40)
    o = TrainingSpec(persistent=persistent, weight_decay=0.0, centred=False)
    optimizer = Optimizer(AllreduceSync(it.grid.replica_comm, Traffic()))
    it.whole.start_chains(40)
    chains = start(it.rbm, "biases", it.grid.replica, it.grid.n_replicas, 40) if persistent else None
    velocity = it.rbm.parameters.like()

    def likelihood():
        return log_likelihood(it.rbm, it.mine(data[:, mine]), log_partition_exact(it.rbm))

    before = likelihood()
    for step in range(60):
        first = 40 * step + int(mine[0])
        states = pack(it.mine(data[:, mine]) > 0)  # as the engine keeps binary data, which `auto` goes by
        # chains are shared evenly, which samples here are not
        own = 40 * step + chains.first if chains else None
        result = it.rbm.contrastive_divergence(states, first, o, chains, n_all_samples=40, chain_draw=own)
        optimizer.learn(it.rbm.parameters, velocity, result.statistics, StepSize(0.2, 0.5, 0.0), len(mine))
        it.whole.update(data, 40 * step, o, 0.2, 0.5)
    W = it.whole.W[np.ix_(it.rbm.weights.visible_rows, it.rbm.weights.hidden_columns)]
    agree(np.allclose(it.rbm.W, W, atol=1e-10))
    agree(likelihood() > before + 0.5)
