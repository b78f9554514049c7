"""Scores of networks against enumeration, and how often their intervals hold, at every grid of the ranks.

Modules: modelpar/kernels/sampling/softplus
"""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from mpi4py import MPI
from scipy import special, stats

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec, TrainingSpec, open_dataset, pretrain
from modelpar.errors import DataError, SpecError
from modelpar.kernels.sampling.softplus import softplus_differences, softplus_sums
from modelpar.kernels.states import pack
from modelpar.likelihood.score import _doubts, score
from modelpar.spec import DataSpec
from modelpar.training.scoring import score_split, share_of_split
from tests.likelihood.cases import all_states, each_grid, exact_log_partition, log_sum_over_hidden

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shape", [(0, 3), (1, 1), (64, 7), (130, 1000)])
def test_sums_of_softplus(dtype, shape):
    x = np.random.default_rng(1).normal(0, 8, shape).astype(dtype)
    wide, tolerance = x.astype(np.float64), 1e-5 if dtype == "float32" else 1e-12
    expected = (np.logaddexp(0, 0.8 * wide) - np.logaddexp(0, 0.3 * wide)).sum(axis=0)
    assert np.allclose(softplus_differences(x, 0.3, 0.8), expected, rtol=tolerance, atol=tolerance * 10)
    other = np.random.default_rng(2).normal(0, 8, shape).astype(dtype)
    low, high = (a * wide + (1 - a) * other.astype(np.float64) for a in (0.3, 0.8))
    expected = (np.logaddexp(0, high) - np.logaddexp(0, low)).sum(axis=0)
    assert np.allclose(softplus_differences(x, 0.3, 0.8, other), expected, rtol=tolerance, atol=tolerance * 100)
    assert np.allclose(softplus_sums(x), np.logaddexp(0, wide).sum(axis=0), rtol=tolerance, atol=tolerance * 10)


def of_case(it):
    """A network around the RBM of a case, as ``score`` takes it."""
    network = DeepBeliefNetwork(
        NetworkSpec(layers=(len(it.whole.b), len(it.whole.c)), dtype="float64", seed=31), it.grid, draw_weights=False
    )
    rbm = network.rbms[0]
    rbm.W[...] = it.whole.W[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]
    rbm.b[...], rbm.c[...] = it.whole.b[rbm.visible_ids], it.whole.c[rbm.hidden_ids]
    rbm.refresh()
    return network


def share(network, v):
    """(this replica's columns of the owned rows, their ids)"""
    ids = np.array_split(np.arange(v.shape[1]), network.grid.n_replicas)[network.grid.replica]
    return np.ascontiguousarray(v[np.ix_(network.visible_ids, ids)]), ids


@each_grid
@pytest.mark.parametrize("packed", [False, True], ids=["values", "states"])
def test_the_exact_score(agree, case, n_shards, packed):
    it = case(n_shards)
    network = of_case(it)
    v = np.random.default_rng(2).integers(0, 2, (7, 70)).astype(float)
    mine, ids = share(network, v)
    result = score(network, pack(mine) if packed else mine, ids)
    expected = (log_sum_over_hidden(it.whole, v) - exact_log_partition(it.whole)).mean()
    agree(
        result.method == "exact" and np.allclose([result.log_likelihood, result.low, result.high], expected, rtol=1e-12)
    )


@each_grid
def test_both_directions_enclose_the_truth(agree, case, n_shards):
    it = case(n_shards)
    network = of_case(it)
    v = np.random.default_rng(2).integers(0, 2, (7, 70)).astype(float)
    mine, ids = share(network, v)
    optimistic, pessimistic = (
        score(network, mine, ids, method, n_chains=100, n_betas=300) for method in ("ais", "reverse-ais")
    )
    expected = (log_sum_over_hidden(it.whole, v) - exact_log_partition(it.whole)).mean()
    agree(abs(optimistic.log_likelihood - expected) < 0.1 and abs(pessimistic.log_likelihood - expected) < 0.1)
    agree(optimistic.high - optimistic.low < 0.3 and not optimistic.doubts)


def drawn_rbm(rng, n_visible, n_hidden):
    """(W, b, c, samples of another kind) of an RBM with random weights, of standard deviations of up to 1."""
    W = rng.normal(0, rng.random(), (n_visible, n_hidden))
    return W, rng.normal(0, 1, n_visible), rng.normal(0, 1, n_hidden), rng.integers(0, 2, (n_visible, 40))


def trained_rbm(rng, n_visible, n_hidden):
    """(W, b, c, held-out samples) of an RBM trained by 300 updates of CD-1 on noisy copies of a few patterns."""
    patterns = rng.integers(0, 2, (n_visible, rng.integers(2, 6)))
    copies = patterns[:, rng.integers(0, patterns.shape[1], 140)] ^ (rng.random((n_visible, 140)) < 0.05)
    v0, held_out = copies[:, :100].astype(float), copies[:, 100:]
    W, b, c = rng.normal(0, 0.01, (n_visible, n_hidden)), np.zeros(n_visible), np.zeros(n_hidden)
    rate = 10 ** rng.uniform(-1.5, 0)
    for _ in range(300):
        h0 = special.expit(W.T @ v0 + c[:, None])
        v1 = rng.random(v0.shape) < special.expit(W @ (rng.random(h0.shape) < h0) + b[:, None])
        h1 = special.expit(W.T @ v1 + c[:, None])
        W += rate * (v0 @ h0.T - v1 @ h1.T) / 100
        b += rate * (v0 - v1).mean(axis=1)
        c += rate * (h0 - h1).mean(axis=1)
    return W, b, c, held_out


@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="one rank does it alone")
@pytest.mark.parametrize("method", ["ais", "reverse-ais"])
def test_intervals_hold_as_often_as_they_say(method):
    """Of 200 RBMs, half of them trained, 95 % of the intervals hold the exact value: fewer than 180 would come once in
    10^3 times."""
    assert stats.binom.cdf(179, 200, 0.95) < 2e-3
    held = 0
    for seed in range(200):
        rng = np.random.default_rng(seed)
        make = trained_rbm if seed % 2 else drawn_rbm
        W, b, c, samples = make(rng, rng.integers(2, 12), rng.integers(2, 20))
        with Grid(MPI.COMM_SELF) as grid:
            network = DeepBeliefNetwork(NetworkSpec(layers=W.shape, seed=seed), grid)
            rbm = network.rbms[0]
            rbm.W[...], rbm.b[...], rbm.c[...] = W, b, c
            rbm.refresh()
            v = pack(samples)
            exact = score(network, v, np.arange(40), "exact").log_likelihood
            result = score(network, v, np.arange(40), method, n_chains=40, n_betas=60, seed=seed)
        held += result.low <= exact <= result.high
    assert held >= 180, held


@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="one rank does it alone")
def test_the_interval_of_both_directions_holds_for_a_model_that_was_trained_hard():
    """Held-out samples that it fits badly: in reverse alone, values are too high by far more than their intervals."""
    data = DataSpec(data="digits", binarise="0.5")
    with Grid(MPI.COMM_SELF) as grid:
        network = DeepBeliefNetwork(NetworkSpec(layers=(64, 12), seed=1), grid)
        dataset = open_dataset(data, grid.comm)
        training = TrainingSpec(epochs=20, learning_rate=0.5, momentum=0.95, initial_momentum=0.95)
        for _ in pretrain(network, dataset, training):
            pass
        held_out = share_of_split(network, dataset, dataset.test)
        exact = score(network, *held_out, "exact").log_likelihood
        results = [score(network, *held_out, exact_up_to=0, n_betas=100, seed=seed) for seed in range(20)]
    assert all(result.low <= result.log_likelihood <= result.high for result in results)
    held = sum(result.low <= exact <= result.high for result in results)
    assert held >= 16, held  # of 95 %: fewer would come once in 300 times


@pytest.mark.parametrize(
    ("estimates", "chains", "words"),
    [
        (((-20.0, -20.1, -19.9, 0.0), (-20.2, -20.4, -20.0, 0.0)), 50.0, []),
        (((-20.0, -20.1, -19.9, 0.0), (-21.2, -21.4, -21.0, 0.0)), 50.0, ["1.2 nats apart"]),
        (((-20.0, -20.1, -19.9, 0.0), (-19.9, -20.0, -19.8, 0.0)), 50.0, []),
        (((-20.0, -20.1, -19.9, 0.0), (-19.7, -19.8, -19.6, 0.0)), 50.0, ["0.3 nats above"]),
        (((-20.0, -20.1, -19.9, 0.0), None), 9.0, ["9 of 100 chains"]),
    ],
)
def test_doubts(estimates, chains, words):
    doubts = _doubts(*estimates, chains, 100)
    assert len(doubts) == len(words)
    assert all(word in doubt for word, doubt in zip(words, doubts, strict=True))


@pytest.mark.skipif(MPI.COMM_WORLD.size > 1, reason="one rank does it alone")
def test_two_chains_are_too_few(case):
    it = case(1)
    v = np.random.default_rng(2).integers(0, 2, (7, 70)).astype(float)
    result = score(of_case(it), *share(of_case(it), v), "ais", n_chains=2, n_betas=30)
    assert "of 2 chains" in result.doubts[0]


@each_grid
def test_the_bound_of_a_stack(agree, comm, n_shards):
    """It stands below the likelihood by enumeration, and is its mean over the draws of the hidden states."""
    rng = np.random.default_rng(4)
    W = [rng.normal(0, 1.0, (6, 5)), rng.normal(0, 1.0, (5, 4))]
    biases = [(rng.normal(0, 0.5, a), rng.normal(0, 0.5, b)) for a, b in ((6, 5), (5, 4))]
    v = rng.integers(0, 2, (6, 3000)).astype(float)
    with Grid(comm, model_shards=n_shards, replicas=comm.size // n_shards) as grid:
        network = DeepBeliefNetwork(NetworkSpec(layers=(6, 5, 4), dtype="float64", seed=7), grid)
        for rbm, weights, (b, c) in zip(network.rbms, W, biases, strict=True):
            rbm.W[...] = weights[np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)]
            rbm.b[...], rbm.c[...] = b[rbm.visible_ids], c[rbm.hidden_ids]
            rbm.refresh()
        result = score(network, *share(network, v))
    h, ((b0, c0), (b1, c1)) = all_states(5), biases
    # log p(h) of the top RBM, by its own hidden states, and the bound, by all states of the layer between
    log_top = b1 @ h + np.logaddexp(0, W[1].T @ h + c1[:, None]).sum(axis=0)
    log_top -= np.logaddexp.reduce(log_top)
    x, y = W[0].T @ v + c0[:, None], W[0] @ h + b0[:, None]
    log_q = h.T @ x - np.logaddexp(0, x).sum(axis=0)  # (states, samples)
    log_joint = log_top[:, None] + y.T @ v - np.logaddexp(0, y).sum(axis=0)[:, None]
    bound = (np.exp(log_q) * (log_joint - log_q)).sum(axis=0).mean()
    likelihood = np.logaddexp.reduce(log_joint, axis=0).mean()
    half = (result.high - result.low) / 2
    agree(0 < half < 0.1 and abs(result.log_likelihood - bound) < 3 * half)
    agree(result.log_likelihood < likelihood)


@each_grid
@pytest.mark.parametrize("layers", [(9, 12), (9, 7, 8)], ids=["one RBM", "a stack"])
def test_through_the_trajectory(agree, comm, n_shards, layers):
    """Both directions through models of the training of the top RBM enclose the exact value, the bound of a stack."""
    dataset = open_dataset(DataSpec(data="bars:3", test_fraction=0.5), comm)
    with Grid(comm, model_shards=n_shards, replicas=comm.size // n_shards) as grid:
        network, kept = DeepBeliefNetwork(NetworkSpec(layers=layers, seed=1), grid), []
        for record in pretrain(network, dataset, TrainingSpec(updates=60, batch_size=50, learning_rate=0.3)):
            if record.kind == "step" and record.layer == len(layers) - 2 and record.step in (1, 10, 40):
                kept.append(DeepBeliefNetwork(network.spec, grid).rbms[-1])
                kept[-1].parameters.copy_from(network.rbms[-1].parameters)
        exact = score_split(network, dataset, dataset.train, "exact")
        options = {"n_chains": 200, "n_betas": 300}
        result = score_split(network, dataset, dataset.train, "trajectory", **options, kept=kept)
        agree(result.method == "trajectory" and abs(result.log_partition - exact.log_partition) < 0.1)
        agree(result.low - 0.05 < exact.log_likelihood < result.high + 0.05)
        agree(abs(result.gap) < 0.15 and not result.doubts)
        for method, given in (("trajectory", []), ("ais", kept)):
            with pytest.raises(SpecError, match="only trajectory takes some"):
                score_split(network, dataset, dataset.train, method, kept=given)


@each_grid
def test_trained_networks_on_their_data(agree, comm, n_shards):
    """A trained RBM gives its data a likelihood far above that of an RBM without weights, the same in both forms."""
    dataset = open_dataset(DataSpec(data="bars:3", test_fraction=0.5), comm)
    with Grid(comm, model_shards=n_shards, replicas=comm.size // n_shards) as grid:
        network = DeepBeliefNetwork(NetworkSpec(layers=(9, 12), seed=1), grid)
        before = score_split(network, dataset, dataset.train)
        for _ in pretrain(network, dataset, TrainingSpec(epochs=3, batch_size=20)):
            pass
        after = score_split(network, dataset, dataset.train)
        both = score_split(network, dataset, dataset.train, "ais", n_chains=200, n_betas=300)
        agree(after.log_likelihood > before.log_likelihood + 0.5)
        agree(both.low - 0.05 <= after.log_likelihood <= both.high + 0.05)
        with pytest.raises(SpecError, match="must be one of auto, exact"):
            score_split(network, dataset, dataset.train, "best")
        with pytest.raises(DataError, match="no samples to score"):
            score_split(network, dataset, dataclasses.replace(dataset.train, rows=dataset.train.rows[:0], labels=None))
