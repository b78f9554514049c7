"""The scores against sums over all states, written out in NumPy, at every grid of the ranks."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.errors import SpecError
from modelpar.kernels.states import pack
from modelpar.model import scores
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import NetworkLayout
from modelpar.spec import NetworkSpec, TrainingSpec
from modelpar.sync import AllreduceSync
from modelpar.training.optimizer import Optimizer
from modelpar.training.schedule import StepSize
from tests import reference

pytestmark = pytest.mark.ranks

SIZE = MPI.COMM_WORLD.size
SHARDS = [n for n in range(1, SIZE + 1) if SIZE % n == 0]
SEED = 31


def all_states(n):
    """(n, 2**n), every state of n units"""
    return np.array(list(product([0.0, 1.0], repeat=n))).T


def log_sum_over_hidden(rbm, v):
    """log sum_h exp(-E(v, h)) of every column of v, hidden state by hidden state."""
    own = -0.5 * ((v - rbm.b[:, None]) ** 2).sum(axis=0) if rbm.gaussian else rbm.b @ v
    h = all_states(len(rbm.c))
    return np.log(np.exp(v.T @ rbm.W @ h + own[:, None] + (rbm.c @ h)[None, :]).sum(axis=1))


def exact_log_partition(rbm):
    """Over all pairs of states; for Gaussian visible units by the moments of N(b + W h, 1)."""
    if not rbm.gaussian:
        return np.log(np.exp(log_sum_over_hidden(rbm, all_states(len(rbm.b)))).sum())
    h = all_states(len(rbm.c))
    shift = rbm.W @ h
    terms = np.exp(rbm.c @ h + rbm.b @ shift + 0.5 * (shift**2).sum(axis=0))
    return np.log(terms.sum()) + 0.5 * len(rbm.b) * np.log(2 * np.pi)


def owners_of(n_units, n_shards, kind):
    """An owner for each unit: blocks, at random, or all units on the last shard."""
    if kind == "scattered":
        return np.random.default_rng(n_units).integers(0, n_shards, n_units)
    if kind == "lopsided":
        return np.full(n_units, n_shards - 1)
    return np.arange(n_units) * n_shards // n_units


class Case:
    """An RBM in plain NumPy, ``whole``, and the same one over a grid, ``rbm``."""

    def __init__(self, comm, n_shards, n_visible=7, n_hidden=5, *, gaussian=False, owners="scattered", hold="column"):
        rng = np.random.default_rng(n_visible)
        W = rng.normal(0, 0.3 if gaussian else 0.8, (n_visible, n_hidden))
        b, c = rng.normal(0, 0.5, n_visible), rng.normal(0, 0.5, n_hidden)
        self.whole = reference.RBM(W, b, c, seed=SEED, gaussian=gaussian)
        self.grid = Grid(comm, model_shards=n_shards, replicas=comm.size // n_shards)
        spec = NetworkSpec(
            layers=(n_visible, n_hidden), visible="gaussian" if gaussian else "bernoulli", dtype="float64", seed=SEED
        )
        layout = NetworkLayout.from_owners([owners_of(n, n_shards, owners) for n in spec.layers], n_shards, hold)
        self.rbm = DeepBeliefNetwork(spec, self.grid, layout).rbms[0]
        self.rbm.W[...] = W[np.ix_(self.rbm.weights.visible_rows, self.rbm.weights.hidden_columns)]
        self.rbm.b[...], self.rbm.c[...] = b[self.rbm.visible_ids], c[self.rbm.hidden_ids]

    def mine(self, v):
        """The owned block of all samples."""
        return np.ascontiguousarray(v[self.rbm.visible_ids])

    def share(self, n_samples):
        """This replica's samples; with fewer samples than replicas some have none."""
        ids = np.arange(n_samples, dtype=np.int64)
        return np.array_split(ids, self.grid.n_replicas)[self.grid.replica]


@pytest.fixture
def case(comm):
    """``case(n_shards, ...)`` -> Case, freed after the test."""
    made = []

    def make(n_shards, *args, on=comm, **options):
        made.append(Case(on, n_shards, *args, **options))
        return made[-1]

    yield make
    for one in made:
        one.grid.free()


def same_everywhere(comm, value):
    return all(np.array_equal(value, other_value, equal_nan=True) for other_value in comm.allgather(value))


each_grid = pytest.mark.parametrize("n_shards", SHARDS, ids="shards={}".format)
each_kind = pytest.mark.parametrize("gaussian", [False, True], ids=["bernoulli", "gaussian"])
each_owner = pytest.mark.parametrize(
    ("owners", "hold"),
    [("blocks", "column"), ("scattered", "row"), ("lopsided", "column"), ("lopsided", "row")],
)


@each_grid
@each_kind
@each_owner
def test_free_energy_is_the_sum_over_hidden_states(comm, agree, case, n_shards, gaussian, owners, hold):
    it = case(n_shards, gaussian=gaussian, owners=owners, hold=hold)
    v = np.random.default_rng(0).random((7, 9))
    energy = scores.free_energy(it.rbm, it.mine(v))
    agree(np.allclose(energy, -log_sum_over_hidden(it.whole, v), rtol=1e-12))
    agree(same_everywhere(comm, energy))


@each_grid
@pytest.mark.parametrize("shape", [(7, 5), (4, 9)], ids=["over hidden", "over visible"])
@each_owner
def test_the_exact_log_partition(comm, agree, case, n_shards, shape, owners, hold):
    it = case(n_shards, *shape, owners=owners, hold=hold)
    found = scores.log_partition_exact(it.rbm)
    agree(np.isclose(found, exact_log_partition(it.whole), rtol=1e-12))
    agree(same_everywhere(comm, found))


@each_grid
def test_the_exact_log_partition_over_more_states_than_fit_at_a_time(agree, case, n_shards, monkeypatch):
    monkeypatch.setattr(scores, "STATES_AT_A_TIME", 7)
    it = case(n_shards)
    agree(np.isclose(scores.log_partition_exact(it.rbm), exact_log_partition(it.whole), rtol=1e-12))


@each_grid
@pytest.mark.parametrize("shape", [(7, 5), (4, 9)], ids=["more visible", "more hidden"])
def test_the_exact_log_partition_with_gaussian_units(comm, agree, case, n_shards, shape):
    it = case(n_shards, *shape, gaussian=True)
    found = scores.log_partition_exact(it.rbm)
    agree(np.isclose(found, exact_log_partition(it.whole), rtol=1e-12))
    agree(same_everywhere(comm, found))


@each_grid
def test_probabilities_of_all_visible_states_sum_to_one(comm, agree, case, n_shards):
    it = case(n_shards)
    v = all_states(7)
    log_z = scores.log_partition_exact(it.rbm)
    agree(np.isclose(np.exp(-scores.free_energy(it.rbm, it.mine(v)) - log_z).sum(), 1))
    mine = it.share(v.shape[1])
    mean = scores.log_likelihood(it.rbm, it.mine(v[:, mine]), log_z)
    agree(np.isclose(mean, (log_sum_over_hidden(it.whole, v) - exact_log_partition(it.whole)).mean()))
    agree(same_everywhere(comm, mean))


def expected_pseudo_likelihood(rbm, v, samples, seed):
    """Of the sites that the published draws choose, from the free energies of both values of the site."""
    sites = np.floor(reference.uniform((seed, 0, reference.SCORE, 0), [0], samples)[0] * len(rbm.b)).astype(int)
    total = 0.0
    for j, site in enumerate(sites):
        both = np.repeat(v[:, [j]], 2, axis=1)
        both[site] = [0, 1]
        log_p = log_sum_over_hidden(rbm, both)
        log_p -= np.logaddexp(*log_p)
        total += (1 - v[site, j]) * log_p[0] + v[site, j] * log_p[1]
    return len(rbm.b) * total / len(sites)


@each_grid
@each_owner
@pytest.mark.parametrize("values", ["states", "probabilities"])
def test_pseudo_likelihood_of_the_drawn_sites(comm, agree, case, n_shards, owners, hold, values):
    it = case(n_shards, owners=owners, hold=hold)
    v = np.random.default_rng(2).random((7, 21))
    v = np.round(v) if values == "states" else v
    ids = 1000 + 3 * np.arange(21)
    mine = it.share(21)
    found = scores.pseudo_log_likelihood(it.rbm, it.mine(v[:, mine]), ids[mine], seed=77)
    agree(np.isclose(found, expected_pseudo_likelihood(it.whole, v, ids, 77), rtol=1e-12))
    agree(same_everywhere(comm, found))


@each_grid
def test_pseudo_likelihood_estimates_the_mean_over_all_sites(agree, case, n_shards):
    """Besag's sum over all units, exact, against sites drawn for 20000 samples of the same state."""
    it = case(n_shards)
    v = np.array([[1.0], [0], [0], [1], [1], [0], [1]])
    values = []
    for site in range(7):
        both = np.repeat(v, 2, axis=1)
        both[site] = 1 - v[site, 0], v[site, 0]
        other, own = log_sum_over_hidden(it.whole, both)
        values.append(own - np.logaddexp(own, other))
    found = scores.pseudo_log_likelihood(it.rbm, it.mine(np.repeat(v, 20000, axis=1)), np.arange(20000))
    agree(abs(found - sum(values)) < 5 * 7 * np.std(values) / np.sqrt(20000))


@each_grid
def test_without_samples_there_is_no_mean(agree, case, n_shards):
    it = case(n_shards)
    none = it.mine(np.empty((7, 0)))
    agree(np.isnan(scores.pseudo_log_likelihood(it.rbm, none, np.empty(0, np.int64))))
    agree(np.isnan(scores.log_likelihood(it.rbm, none, 0.0)))


@each_grid
@each_kind
@pytest.mark.parametrize("base", ["own biases", "other biases"])
def test_ais_finds_the_exact_log_partition(comm, agree, case, n_shards, gaussian, base):
    it = case(n_shards, gaussian=gaussian)
    base_bias = None if base == "own biases" else np.linspace(-0.5, 0.5, 7)[it.rbm.visible_ids]
    found = scores.log_partition_ais(it.rbm, n_chains=200, n_betas=300, base_bias=base_bias)
    exact = exact_log_partition(it.whole)
    agree(found.low < exact < found.high)
    agree(abs(found.value - exact) < 0.1)
    agree(found.effective_chains > 100)
    agree(same_everywhere(comm, found.value))


@each_grid
@each_kind
@each_owner
def test_ais_is_the_same_at_every_grid(agree, case, n_shards, gaussian, owners, hold):
    """The same draws on one rank alone and on all, with chains split unevenly over replicas."""
    together, alone = (
        case(n, gaussian=gaussian, owners=owners, hold=hold, on=on)
        for n, on in ((n_shards, MPI.COMM_WORLD), (1, MPI.COMM_SELF))
    )
    ours, own = (scores.log_partition_ais(it.rbm, n_chains=7, n_betas=20, seed=4) for it in (together, alone))
    agree(np.allclose([ours.value, ours.effective_chains], [own.value, own.effective_chains], rtol=1e-10))


@each_grid
def test_the_interval_of_ais_covers_the_truth(agree, case, n_shards):
    """Few temperatures make wide intervals; of 30 seeds nearly all have log Z inside, and their mean Z is right."""
    it = case(n_shards)
    exact = exact_log_partition(it.whole)
    found = [scores.log_partition_ais(it.rbm, n_chains=100, n_betas=5, seed=seed) for seed in range(30)]
    agree(sum(one.low < exact < one.high for one in found) >= 28)
    ratios = np.exp([one.value - exact for one in found])
    agree(abs(ratios.mean() - 1) < 5 * ratios.std() / np.sqrt(30))


@each_grid
def test_what_cannot_be_is_refused_on_every_rank(agree, case, n_shards):
    wide, gaussian = case(n_shards, 22, 21), case(n_shards, gaussian=True)
    with pytest.raises(SpecError, match="at most 20 hidden units, but there are 21"):
        scores.log_partition_exact(wide.rbm)
    with pytest.raises(SpecError, match="Gaussian"):
        scores.pseudo_log_likelihood(gaussian.rbm, gaussian.mine(np.zeros((7, 1))), np.zeros(1, np.int64))
    with pytest.raises(SpecError, match="at least 2 chains"):
        scores.log_partition_ais(wide.rbm, n_chains=1)
    agree(True)


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
    o = TrainingSpec(persistent=persistent, weight_decay=0.0)
    optimizer = Optimizer(AllreduceSync(it.grid.replica_comm, Traffic()))
    it.whole.start_chains(40)
    chains = it.rbm.start_chains(int(mine[0]), len(mine)) if persistent else None
    velocity = it.rbm.parameters.like()

    def likelihood():
        return scores.log_likelihood(it.rbm, it.mine(data[:, mine]), scores.log_partition_exact(it.rbm))

    before = likelihood()
    for step in range(60):
        first = 40 * step + int(mine[0])
        states = pack(it.mine(data[:, mine]) > 0)  # as the engine keeps binary data, which `auto` goes by
        found = it.rbm.contrastive_divergence(states, first, o, chains, n_all_samples=40)
        optimizer.learn(it.rbm.parameters, velocity, found.statistics, StepSize(0.2, 0.5, 0.0), len(mine))
        it.whole.update(data, 40 * step, o, 0.2, 0.5)
    W = it.whole.W[np.ix_(it.rbm.weights.visible_rows, it.rbm.weights.hidden_columns)]
    agree(np.allclose(it.rbm.W, W, atol=1e-10))
    agree(likelihood() > before + 0.5)
