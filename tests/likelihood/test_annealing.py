"""Annealed importance sampling against exact sums over all states, at every grid of the ranks."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import SpecError
from modelpar.likelihood.annealing import log_partition_ais, reverse_log_likelihoods, temperatures
from tests import reference
from tests.likelihood.cases import (
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
@pytest.mark.parametrize("base", ["own biases", "other biases"])
def test_ais_finds_the_exact_log_partition(comm, agree, case, n_shards, gaussian, base):
    it = case(n_shards, gaussian=gaussian)
    base_bias = None if base == "own biases" else np.linspace(-0.5, 0.5, 7)[it.rbm.visible_ids]
    result = log_partition_ais(it.rbm, n_chains=200, n_betas=300, base_bias=base_bias)
    exact = exact_log_partition(it.whole)
    agree(result.low < exact < result.high)
    agree(abs(result.value - exact) < 0.1)
    agree(result.effective_chains > 100)
    agree(same_everywhere(comm, result.value))


@each_grid
@each_kind
@each_owner
def test_ais_is_the_same_at_every_grid(agree, case, n_shards, gaussian, owners, hold):
    """The same draws on one rank alone and on all, with chains split unevenly over replicas."""
    together, alone = (
        case(n, gaussian=gaussian, owners=owners, hold=hold, on=on)
        for n, on in ((n_shards, MPI.COMM_WORLD), (1, MPI.COMM_SELF))
    )
    ours, own = (log_partition_ais(it.rbm, n_chains=7, n_betas=20, seed=4) for it in (together, alone))
    agree(np.allclose([ours.value, ours.effective_chains], [own.value, own.effective_chains], rtol=1e-10))


@each_grid
def test_the_interval_of_ais_covers_the_truth(agree, case, n_shards):
    """Few temperatures make wide intervals; of 30 seeds nearly all have log Z inside, and their mean Z is right."""
    it = case(n_shards)
    exact = exact_log_partition(it.whole)
    result = [log_partition_ais(it.rbm, n_chains=100, n_betas=5, seed=seed) for seed in range(30)]
    agree(sum(one.low < exact < one.high for one in result) >= 28)
    ratios = np.exp([one.value - exact for one in result])
    agree(abs(ratios.mean() - 1) < 5 * ratios.std() / np.sqrt(30))


@each_grid
@each_kind
def test_reverse_ais_finds_the_exact_likelihood(comm, agree, case, n_shards, gaussian):
    """With temperatures enough both directions agree with the sums over all states."""
    it = case(n_shards, gaussian=gaussian)
    v = np.random.default_rng(8).random((7, 60))
    v = v if gaussian else np.round(v)
    mine, betas = it.share(60), temperatures(it.rbm, 400, seed=3)
    estimates = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, betas, seed=3)
    estimates = np.concatenate(it.grid.replica_comm.allgather(estimates))
    exact = log_sum_over_hidden(it.whole, v) - exact_log_partition(it.whole)
    error = (estimates - exact).std() / np.sqrt(60)
    agree(abs((estimates - exact).mean()) < 5 * error + 0.01)
    agree(error < 0.03)
    agree(same_everywhere(comm, estimates))


@each_grid
@each_owner
def test_reverse_ais_is_the_same_at_every_grid(agree, case, n_shards, owners, hold):
    v = np.random.default_rng(8).integers(0, 2, (7, 9)).astype(float)
    result = []
    for n, on in ((n_shards, MPI.COMM_WORLD), (1, MPI.COMM_SELF)):
        it = case(n, owners=owners, hold=hold, on=on)
        mine = it.share(9)
        here = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, np.linspace(0, 1, 20), seed=5)
        result.append(np.concatenate(it.grid.replica_comm.allgather(here)))
    agree(np.allclose(*result, rtol=1e-10))


def reverse_step_by_step(rbm, v, betas, seed):
    """Burda, Grosse and Salakhutdinov (2015), algorithm 2, with the published draws, in plain NumPy."""

    def log_f(beta, v):
        return rbm.b @ v + np.logaddexp(0, beta * (rbm.W.T @ v + rbm.c[:, None])).sum(axis=0)

    def states(x, repeat, units, counters):
        u = reference.uniform((seed, 0, reference.SCORE, repeat), np.arange(units), counters)
        return (u < 1 / (1 + np.exp(-x))) * 1.0

    n = v.shape[1]
    log_w = log_f(1.0, v) - len(rbm.c) * np.log(2) - np.logaddexp(0, rbm.b).sum()
    for k in range(len(betas) - 1, 0, -1):
        counters = (k << 40) + np.arange(n)
        h = states(betas[k] * (rbm.W.T @ v + rbm.c[:, None]), 4, len(rbm.c), counters)
        v = states(betas[k] * (rbm.W @ h) + rbm.b[:, None], 5, len(rbm.b), counters)
        log_w += log_f(betas[k - 1], v) - log_f(betas[k], v)
    return log_w


@each_grid
def test_reverse_ais_step_by_step(agree, case, n_shards):
    it = case(n_shards)
    v, betas = np.random.default_rng(8).integers(0, 2, (7, 9)).astype(float), np.array([0.0, 0.3, 0.55, 0.9, 1.0])
    mine = it.share(9)
    result = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, betas, seed=5)
    result = np.concatenate(it.grid.replica_comm.allgather(result))
    agree(np.allclose(result, reverse_step_by_step(it.whole, v, betas, 5), rtol=1e-10))


@each_grid
def test_too_few_chains_and_temperatures_that_fall_are_refused_on_every_rank(agree, case, n_shards):
    it = case(n_shards)
    with pytest.raises(SpecError, match="at least 2 chains"):
        log_partition_ais(it.rbm, n_chains=1)
    with pytest.raises(SpecError, match="must rise from 0 to 1"):
        log_partition_ais(it.rbm, betas=np.array([0.0, 0.6, 0.5, 1.0]))
    agree(True)
