"""Annealed importance sampling against exact sums over all states, at every grid of the ranks.

Modules: modelpar/likelihood/legs, modelpar/likelihood/steps
"""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.errors import DataError, SpecError
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


def kept_before(it, case, n_shards, **options):
    """Three RBMs of the same units as a case's, with weights on the way to its own, and something else than that."""
    kept = []
    for k, scale in enumerate((0.1, 0.4, 0.8)):
        rng, one = np.random.default_rng(k), case(n_shards, on=it.grid.comm, **options)
        W = scale * it.whole.W + rng.normal(0, 0.1, it.whole.W.shape)
        b, c = scale * it.whole.b + rng.normal(0, 0.1, 7), scale * it.whole.c + rng.normal(0, 0.1, 5)
        t = 1 + scale * (it.whole.precision - 1) + rng.normal(0, 0.05, 7)
        precision = {"precision": t} if it.whole.gaussian else {}
        one.whole = reference.RBM(W, b, c, seed=it.whole.seed, gaussian=it.whole.gaussian, **precision)
        one.rbm.parameters.precision[:] = one.whole.precision[one.rbm.visible_ids]
        one.rbm.W[...] = W[np.ix_(one.rbm.weights.visible_rows, one.rbm.weights.hidden_columns)]
        one.rbm.b[...], one.rbm.c[...] = b[one.rbm.visible_ids], c[one.rbm.hidden_ids]
        kept.append(one)
    return kept


@each_grid
@each_kind
def test_through_other_models_both_directions_find_the_truth(comm, agree, case, n_shards, gaussian):
    it = case(n_shards, gaussian=gaussian)
    kept = [one.rbm for one in kept_before(it, case, n_shards, gaussian=gaussian)]
    base = np.linspace(-0.5, 0.5, 7)[it.rbm.visible_ids]
    betas = temperatures(it.rbm, 400, 3, base, kept)
    agree(len(betas) == 400 and set(range(5)) <= set(betas.tolist()) and np.all(np.diff(betas) > 0))
    exact = exact_log_partition(it.whole)
    for given in ({"betas": betas}, {"n_betas": 300}):
        result = log_partition_ais(it.rbm, n_chains=200, seed=3, base_bias=base, kept=kept, **given)
        agree(result.low < exact < result.high and abs(result.value - exact) < 0.1)
        agree(same_everywhere(comm, result.value))
    v = np.random.default_rng(8).random((7, 60))
    v = v if gaussian else np.round(v)
    mine = it.share(60)
    estimates = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, betas, 3, base, kept)
    estimates = np.concatenate(it.grid.replica_comm.allgather(estimates))
    difference = estimates - (log_sum_over_hidden(it.whole, v) - exact)
    agree(abs(difference.mean()) < 5 * difference.std() / np.sqrt(60) + 0.01 and difference.std() < 0.25)


@each_grid
@each_owner
def test_other_models_make_the_same_way_at_every_grid(agree, case, n_shards, owners, hold):
    v, result = np.random.default_rng(8).integers(0, 2, (7, 9)).astype(float), []
    for n, on in ((n_shards, MPI.COMM_WORLD), (1, MPI.COMM_SELF)):
        it = case(n, owners=owners, hold=hold, on=on)
        kept = [one.rbm for one in kept_before(it, case, n, owners=owners, hold=hold)]
        betas = temperatures(it.rbm, 30, 5, kept=kept)
        mine = it.share(9)
        here = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, betas, 5, kept=kept)
        forwards = log_partition_ais(it.rbm, 7, seed=5, betas=betas, kept=kept)
        result.append([*betas, forwards.value, *np.concatenate(it.grid.replica_comm.allgather(here))])
    agree(np.allclose(*result, rtol=1e-10))


def reverse_step_by_step(rbm, v, betas, seed, kept=()):
    """Burda, Grosse and Salakhutdinov (2015), algorithm 2, with the published draws, in plain NumPy.

    kept   models that are gone through at betas 1, 2, ..., between which all parameters are interpolated
    """
    models = [reference.RBM(0 * rbm.W, rbm.b, 0 * rbm.c, seed=seed), *kept, rbm]

    def at(beta):
        t = min(int(beta), len(models) - 2)
        a = beta - t
        return ((1 - a) * getattr(models[t], name) + a * getattr(models[t + 1], name) for name in "Wbc")

    def log_f(beta, v):
        W, b, c = at(beta)
        return b @ v + np.logaddexp(0, W.T @ v + c[:, None]).sum(axis=0)

    def states(x, repeat, units, counters):
        u = reference.uniform((seed, 0, reference.SCORE, repeat), np.arange(units), counters)
        return (u < 1 / (1 + np.exp(-x))) * 1.0

    n = v.shape[1]
    log_w = log_f(betas[-1], v) - len(rbm.c) * np.log(2) - np.logaddexp(0, rbm.b).sum()
    for k in range(len(betas) - 1, 0, -1):
        counters = (k << 40) + np.arange(n)
        W, b, c = at(betas[k])
        h = states(W.T @ v + c[:, None], 4, len(c), counters)
        v = states(W @ h + b[:, None], 5, len(b), counters)
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
    kept, betas = kept_before(it, case, n_shards), np.array([0.0, 0.3, 1.0, 2.0, 2.4, 3.0, 3.5, 3.9, 4.0])
    rbms = [one.rbm for one in kept]
    result = reverse_log_likelihoods(it.rbm, it.mine(v[:, mine]), mine, betas, seed=5, kept=rbms)
    result = np.concatenate(it.grid.replica_comm.allgather(result))
    agree(np.allclose(result, reverse_step_by_step(it.whole, v, betas, 5, [one.whole for one in kept]), rtol=1e-10))


@each_grid
def test_too_few_chains_and_temperatures_that_fall_are_refused_on_every_rank(agree, case, n_shards):
    it = case(n_shards)
    with pytest.raises(SpecError, match="at least 2 chains"):
        log_partition_ais(it.rbm, n_chains=1)
    with pytest.raises(SpecError, match="must rise from 0 to 1"):
        log_partition_ais(it.rbm, betas=np.array([0.0, 0.6, 0.5, 1.0]))
    kept = [one.rbm for one in kept_before(it, case, n_shards)]
    with pytest.raises(SpecError, match="must rise from 0 to 4 over all whole numbers"):
        log_partition_ais(it.rbm, betas=np.array([0.0, 1.0, 2.5, 3.0, 4.0]), kept=kept)
    with pytest.raises(SpecError, match="through 4 RBMs needs at least 5 temperatures, but 4 were given"):
        temperatures(it.rbm, 4, kept=kept)
    agree(temperatures(it.rbm, 5, kept=kept).tolist() == [0, 1, 2, 3, 4])
    with pytest.raises(DataError, match="they must be the same units"):
        temperatures(it.rbm, 10, kept=[case(n_shards, 7, 6).rbm])
