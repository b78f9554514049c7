"""Small RBMs whose states can all be visited: what the engine samples and learns against exact sums.

All chains are independent, so the standard error of a mean over n of them is sigma / sqrt(n) with sigma known from the
exact distribution; each test states what error it would find.  Seeds are fixed: a test that passes always passes.
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI
from scipy.stats import chi2

from modelpar.chains.gibbs import start
from modelpar.data.minibatches import Minibatches
from modelpar.draws import Purpose
from modelpar.errors import SpecError
from modelpar.kernels.states import pack, unpack
from modelpar.ownership.layout import MATRIX_LAYOUTS
from modelpar.spec import NetworkSpec, TrainingSpec
from tests import networks, reference

pytestmark = pytest.mark.ranks

SHAPES = networks.grids(MPI.COMM_WORLD)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]} shards x {0[1]} replicas".format)
held = pytest.mark.parametrize("held", MATRIX_LAYOUTS)
# (visible, hidden) units; enough chains that 5 standard errors are at most 0.05 for a product of two states
SIZES, N, K = (6, 5), 3000, 30
FIVE_SIGMA = 5.0


def all_states(n: int) -> np.ndarray:
    """(n, 2**n)"""
    return np.array(list(product([0.0, 1.0], repeat=n))).T


class Exact:
    """The model's distribution by enumeration: of (v, h) for Bernoulli units, of h for Gaussian visible ones."""

    def __init__(self, twin: reference.RBM) -> None:
        W, b, c = (x.astype(np.float64) for x in (twin.W, twin.b, twin.c))
        self.h = all_states(len(c))
        x = W @ self.h + b[:, None]
        if twin.gaussian:
            t = twin.precision.astype(np.float64)[:, None]
            log_p = c @ self.h + 0.5 * (x**2 / t).sum(axis=0)
            self.mean, self.square = x / t, (x / t) ** 2 + 1 / t
        else:
            log_p = c @ self.h + np.log1p(np.exp(x)).sum(axis=0)
            self.mean = self.square = reference.sigmoid(x)  # of v given h, and of v^2
        p = np.exp(log_p - log_p.max())
        self.p_h = p / p.sum()  # (2**n_hidden,)
        self.vh = (self.mean * self.p_h) @ self.h.T
        self.deviation = np.sqrt((self.square * self.p_h) @ self.h.T - self.vh**2)
        self.v, self.hidden = self.mean @ self.p_h, self.h @ self.p_h
        if not twin.gaussian:  # states of v first
            v = all_states(len(b))
            on = np.where(v[:, :, None] == 1, self.mean[:, None, :], 1 - self.mean[:, None, :])
            self.p_vh = on.prod(axis=0) * self.p_h  # (2**n_visible, 2**n_hidden)
            kernel = (on.prod(axis=0)).T @ self._hidden_given(W, c, v)
            self.second_eigenvalue = np.sort(np.abs(np.linalg.eigvals(kernel)))[-2]

    def _hidden_given(self, W, c, v):
        """(2**n_visible, 2**n_hidden) p(h | v)"""
        p = reference.sigmoid(W.T @ v + c[:, None])
        return np.where(self.h[:, None, :] == 1, p[:, :, None], 1 - p[:, :, None]).prod(axis=0)


def machine(comm, shape, held, *, sizes=SIZES, gaussian=False, dtype="float64"):
    """A sharded RBM, its twin, the exact distribution, and this replica's part of N chains."""
    spec = NetworkSpec(sizes, layout=held, visible="gaussian" if gaussian else "bernoulli", seed=17, dtype=dtype)
    network = networks.sharded(comm, spec, shape, "random")
    [twin] = networks.twin(network)
    rbm = network.rbms[0]
    if gaussian:
        twin.W *= 0.5
        rbm.W[:] *= 0.5
        rbm.refresh()
    return network, rbm, twin, Exact(twin), Minibatches.slice_of(N, network.grid.replica, network.grid.n_replicas)


def data_of(n_visible: int, n: int) -> np.ndarray:
    """(n_visible, n) states with correlated units, which are not those of the model."""
    rng = np.random.default_rng(3)
    v = (rng.random((n_visible, n)) < 0.8).astype(float)
    v[1] = v[0]
    return v


def summed(network, step):
    """The statistics of all replicas in this shard's block, a sample's share."""
    update = network.rbms[0].parameters.like()
    step.statistics.add_to(update, 0.0, 1 / N, 1 / N)
    network.grid.replica_comm.Allreduce(MPI.IN_PLACE, update.flat)
    return update


def worst(network, rbm, result, exact, deviation):
    """The largest error of this shard's block, in standard errors of a mean over N chains."""
    block = np.ix_(rbm.weights.visible_rows, rbm.weights.hidden_columns)
    errors = np.abs(result.W - exact[block]) / (deviation[block] / np.sqrt(N))
    return float(network.grid.comm.allreduce(errors.max(initial=0.0), MPI.MAX))


@pytest.mark.parametrize("statistics", ["1", "3", "float"])
@pytest.mark.parametrize("gaussian", [False, True], ids=["bernoulli", "gaussian"])
@held
@shapes
def test_long_chains_give_the_gradient_of_the_likelihood(comm, agree, shape, held, gaussian, statistics):
    """CD-30 has forgotten its data: lambda^30 < 0.001, lambda the second eigenvalue of Gibbs sampling.

    Five standard errors are at most 0.046 of an entry of <v h>; entries of the gradient are up to 0.4, so a sign, a
    swapped unit or a doubled term does not pass.
    """
    network, rbm, twin, exact, mine = machine(comm, shape, held, gaussian=gaussian)
    if not gaussian:
        assert exact.second_eigenvalue**K < 1e-3, exact.second_eigenvalue
        assert FIVE_SIGMA * exact.deviation.max() / np.sqrt(N) < 0.046
    v0 = data_of(SIZES[0], N)
    o = TrainingSpec(gibbs_steps=K, statistics=statistics, reconstruction="states")
    own = np.ascontiguousarray(v0[rbm.visible_ids][:, mine])
    step = rbm.contrastive_divergence(own if gaussian else pack(own), mine.start, o, n_all_samples=N)
    result = summed(network, step)
    p0 = twin.hidden(v0)
    gradient = v0 @ p0.T / N - exact.vh
    assert np.abs(gradient).max() > 0.2, "the case shows nothing"
    # rounded data statistics add an error of their own, at most that of a coin between neighbouring levels
    extra = 0.0 if statistics == "float" else 0.25 / (2 ** int(statistics) - 1) ** 2
    agree(worst(network, rbm, result, gradient, np.sqrt(exact.deviation**2 + extra)) < FIVE_SIGMA)
    b, c = (v0.mean(axis=1) - exact.v)[rbm.visible_ids], (p0.mean(axis=1) - exact.hidden)[rbm.hidden_ids]
    spread_v = np.sqrt((exact.square @ exact.p_h) - exact.v**2)[rbm.visible_ids]
    agree(np.all(np.abs(result.b - b) < FIVE_SIGMA * spread_v / np.sqrt(N)))
    agree(np.all(np.abs(result.c - c) < FIVE_SIGMA * np.sqrt(0.5 / N)))


@held
@shapes
def test_persistent_chains_give_the_gradient_and_keep_the_distribution(comm, agree, shape, held):
    """PCD from the hidden biases: after 30 steps the chains are the model's, whatever the data, and 10 updates without
    a change of the parameters leave them so.  The hidden states are compared state by state by chi-square."""
    network, rbm, twin, exact, mine = machine(comm, shape, held)
    chains = start(rbm, "biases", network.grid.replica, network.grid.n_replicas, N)
    v0 = np.ascontiguousarray(data_of(SIZES[0], N)[rbm.visible_ids][:, mine])
    p0 = twin.hidden(data_of(SIZES[0], N))
    gradient = data_of(SIZES[0], N) @ p0.T / N - exact.vh
    for call, steps in enumerate((K, 10)):
        o = TrainingSpec(gibbs_steps=steps, persistent=True, statistics="float")
        step = rbm.contrastive_divergence(v0, call * N + mine.start, o, chains, n_all_samples=N)
        agree(worst(network, rbm, summed(network, step), gradient, exact.deviation) < FIVE_SIGMA, f"call {call}")
    counts = histogram(network, 0, unpack(chains.h))
    agree(fits(counts, exact.p_h), "hidden states are not distributed as the model's")


def histogram(network, v, h) -> np.ndarray:
    """How often each joint state of (v, h) occurs over all shards and replicas; v 0 where only h counts."""
    grid, rbm = network.grid, network.rbms[0]
    code = np.zeros(h.shape[1], np.int64)
    n_hidden = network.spec.layers[1]
    code += ((1 << (n_hidden - 1 - rbm.hidden_ids))[:, None] * h.astype(np.int64)).sum(axis=0)
    n_bits = n_hidden
    if not np.isscalar(v):
        n_bits += network.spec.layers[0]
        code += ((1 << (n_bits - 1 - rbm.visible_ids))[:, None] * v.astype(np.int64)).sum(axis=0)
    code = grid.shard_comm.allreduce(code)
    counts = np.bincount(code, minlength=1 << n_bits)
    return grid.replica_comm.allreduce(counts)


def fits(counts: np.ndarray, p: np.ndarray) -> bool:
    """Pearson's chi-square at 0.999; states expected less than 5 times are taken together."""
    expected = p.ravel() * counts.sum()
    rare = expected < 5
    observed = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    observed, expected = observed[expected > 0], expected[expected > 0]
    return bool(((observed - expected) ** 2 / expected).sum() < chi2.ppf(0.999, len(expected) - 1))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@held
@shapes
def test_sampled_states_have_their_joint_distribution(comm, agree, shape, held, dtype):
    """128 joint states of 4 visible and 3 hidden units.  The power: independent units with the same means fail."""
    network, rbm, _twin, exact, mine = machine(comm, shape, held, sizes=(4, 3), dtype=dtype)
    assert exact.second_eigenvalue**K < 1e-3
    h = pack(np.zeros((len(rbm.hidden_ids), mine.stop - mine.start)))
    for k in range(1, K + 1):
        v = rbm.sample_visible(h, Purpose.FANTASY, 2 * k, mine.start)
        h = rbm.sample_hidden(v, Purpose.FANTASY, 2 * k + 1, mine.start)
    v = rbm.sample_visible(h, Purpose.FANTASY, 2 * K + 2, mine.start)
    counts = histogram(network, unpack(v), unpack(h))
    agree(counts.sum() == N and fits(counts, exact.p_vh))
    independent = 1.0
    for axis in (exact.v, exact.hidden):
        for p in axis:
            independent = np.multiply.outer(independent, [1 - p, p])
    agree(not fits(counts, independent), "the test has no power")


@held
@shapes
def test_fantasies_go_on_from_given_states(comm, agree, shape, held):
    """By the published draws; without steps they are the means of these states."""
    network, rbm, twin, _, _ = machine(comm, shape, held)
    h = np.random.default_rng(5).integers(0, 2, (len(twin.c), 9)).astype(network.dtype)
    mine = pack(h[rbm.hidden_ids])
    agree(np.allclose(network.fantasies(9, 0, start=mine), twin.visible(h)[rbm.visible_ids], atol=1e-6))
    v = twin.draw_visible(twin.visible(h), reference.FANTASY, 0, 4)
    for k in range(3):
        h = twin.draw_hidden(twin.hidden(v), reference.FANTASY, 2 * k + 1, 4)
        v = twin.draw_visible(twin.visible(h), reference.FANTASY, 2 * k + 2, 4)
    result = network.fantasies(9, 3, first_draw=4, start=mine)
    agree(np.allclose(result, twin.visible(h)[rbm.visible_ids], atol=1e-6))
    with pytest.raises(SpecError, match="start has 9 chains, but 8"):
        network.fantasies(8, 3, start=mine)


@held
@shapes
def test_fantasies_are_the_means_of_the_models_visible_states(comm, agree, shape, held):
    """The mean over all fantasies of p(v | h) is the model's mean of v."""
    network, rbm, _, exact, _ = machine(comm, shape, held)
    means = network.fantasies(N, K).mean(axis=1)
    spread = np.sqrt((exact.mean**2 @ exact.p_h) - exact.v**2)[rbm.visible_ids]
    agree(np.all(np.abs(means - exact.v[rbm.visible_ids]) < FIVE_SIGMA * spread / np.sqrt(N) + 1e-12))
