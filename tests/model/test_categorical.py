"""RBMs with categorical visible units over every grid, against enumeration of all of their states in plain NumPy.

Modules: modelpar/model/gauge
"""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from mpi4py import MPI
from scipy.special import logsumexp

from modelpar.chains import tempering
from modelpar.chains.clamped import complete
from modelpar.data import open_dataset
from modelpar.draws import Purpose
from modelpar.errors import DataError, LayoutError, SpecError
from modelpar.kernels.states import pack, unpack
from modelpar.likelihood import annealing, energy, enumeration, pseudo_likelihood
from modelpar.model.network import DeepBeliefNetwork
from modelpar.ownership.layout import MATRIX_LAYOUTS, NetworkLayout
from modelpar.ownership.placement import place
from modelpar.spec import NetworkSpec, SyncSpec, TrainingSpec
from modelpar.training.exactness import digests_of_parts
from modelpar.training.trainer import pretrain
from tests import networks

pytestmark = pytest.mark.ranks

COMM = MPI.COMM_WORLD
SITES, Q, HIDDEN = 4, 3, 5
SHAPES = networks.grids(COMM)
each_grid = pytest.mark.parametrize("shape", SHAPES, ids=str)
each_layout = pytest.mark.parametrize("layout", MATRIX_LAYOUTS)


def all_states() -> np.ndarray:
    """(units, Q ** SITES) every one-hot state"""
    codes = np.array(list(product(range(Q), repeat=SITES)))
    return np.eye(Q)[codes].reshape(len(codes), -1).T


class Twin:
    """The same RBM in NumPy, whole; and over the shards, with sites that are owned unevenly."""

    def __init__(self, shape, layout="column", dtype="float32", connections="dense", **more) -> None:
        spec = NetworkSpec(
            layers=(SITES * Q, HIDDEN), visible=f"categorical:{Q}", layout=layout, dtype=dtype, connections=connections,
            seed=5, **more,
        )  # fmt: skip
        owners = np.repeat(networks.owners("random", SITES, shape[0]), Q), networks.owners("strided", HIDDEN, shape[0])
        chosen = NetworkLayout.from_owners(owners, shape[0], layout)
        self.network = DeepBeliefNetwork(spec, networks.grid_of(COMM.size, shape), chosen)
        self.rbm = self.network.rbms[0]
        whole = networks.twin(self.network)[0]
        self.W, self.b, self.c = (x.astype(np.float64) for x in (whole.W, whole.b, whole.c))

    def mine(self, v: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(v[self.rbm.visible_ids])

    def energies(self, v: np.ndarray) -> np.ndarray:
        return -(self.b @ v + np.logaddexp(0, self.W.T @ v + self.c[:, None]).sum(axis=0))


@each_grid
@each_layout
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_sides_given_each_other(shape, layout, dtype) -> None:
    twin = Twin(shape, layout, dtype)
    h = np.array(list(product([0, 1], repeat=HIDDEN)), float).T
    x = (twin.W @ h + twin.b[:, None]).reshape(SITES, Q, -1)
    p = (np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)).reshape(SITES * Q, -1)
    own = pack(np.ascontiguousarray(h[twin.rbm.hidden_ids]))
    assert np.abs(twin.rbm.visible_given_hidden(own) - twin.mine(p)).max(initial=0) < 1e-5
    v = unpack(twin.rbm.sample_visible(own, Purpose.VISIBLE, 0, 0)).reshape(-1, Q, h.shape[1])
    assert (v.sum(axis=1) == 1).all()
    whole = twin.network.whole_visible(v.reshape(-1, h.shape[1]).astype(twin.network.dtype))
    drawn = COMM.bcast(whole)
    assert whole is None or np.array_equal(whole, drawn)


@each_grid
@pytest.mark.parametrize("connections", ["dense", "random:3"])
def test_likelihoods_are_those_of_enumeration(shape, connections) -> None:
    twin, v = Twin(shape, dtype="float64", connections=connections), all_states()
    energies = twin.energies(v)
    log_z = logsumexp(-energies)
    assert np.allclose(energy.free_energy(twin.rbm, twin.mine(v)), energies)
    assert enumeration.log_partition_exact(twin.rbm) == pytest.approx(log_z, rel=1e-12)
    assert logsumexp(energy.free_energy(twin.rbm, twin.mine(v)) * -1 - log_z) == pytest.approx(0, abs=1e-10)
    estimate = annealing.log_partition_ais(twin.rbm, n_chains=200, n_betas=200)
    assert estimate.low <= log_z <= estimate.high
    few = np.arange(twin.network.grid.replica, 81, 9 * twin.network.grid.n_replicas)
    reverse = annealing.reverse_log_likelihoods(twin.rbm, twin.mine(v[:, few]), few, np.linspace(0, 1, 300))
    assert np.abs(reverse - (-energies[few] - log_z)).max(initial=0) < 1.5


@each_grid
def test_ladders_and_the_way_through_models(shape) -> None:
    """Means of tempered chains, by temperatures and through a model of half the weights, and log Z on that way."""
    twin, v = Twin(shape, dtype="float64"), all_states()
    minus = -twin.energies(v)
    half = twin.rbm.parameters.like()
    half.flat[:] = twin.rbm.parameters.flat / 2
    kept = [twin.rbm.with_parameters(half)]
    expected = twin.mine(v @ np.exp(minus - logsumexp(minus)))
    for levels in (tempering.ladder_of_temperatures(twin.rbm, 4), tempering.ladder_of_models(twin.rbm, kept)):
        means, swaps = tempering.tempered_fantasies(twin.network, levels, 1000, 20)
        assert np.abs(means.mean(axis=1) - expected).max(initial=0) < 5 * 0.5 / np.sqrt(1000)
        assert 0 < swaps.acceptance.min() < 1
    through = annealing.log_partition_ais(twin.rbm, n_chains=200, n_betas=100, kept=kept)
    assert through.low <= logsumexp(minus) <= through.high
    few = np.arange(twin.network.grid.replica, 81, 3 * twin.network.grid.n_replicas)
    betas = annealing.temperatures(twin.rbm, 150, kept=kept)
    reverse = annealing.reverse_log_likelihoods(twin.rbm, twin.mine(v[:, few]), few, betas, kept=kept)
    assert np.abs(reverse - (minus[few] - logsumexp(minus))).max(initial=0) < 1.5
    for method in ("pt", "ptt"):
        network = trained(shape, epochs=1, learning_rate=0.1, chains=30, chain_method=method, chain_temperatures=3)
        assert np.abs(network.rbms[0].b.reshape(-1, Q).sum(axis=1)).max(initial=0) < 1e-5


@each_grid
@pytest.mark.parametrize(
    "kind", [*(pytest.param(kind, marks=pytest.mark.slow) for kind in ("gaussian", "relu")), "drelu"]
)
def test_hidden_units_may_have_real_values(shape, kind) -> None:
    """Free energies of these are tried by quadrature elsewhere; summed over all visible states they are log Z."""
    twin, v = Twin(shape, dtype="float64", hidden=kind), all_states()
    log_z = logsumexp(-energy.free_energy(twin.rbm, twin.mine(v)))
    estimate = annealing.log_partition_ais(twin.rbm, n_chains=400, n_betas=300)
    assert estimate.value == pytest.approx(log_z, abs=max(0.1, 5 * estimate.error))
    network = trained(shape, epochs=40, hidden=kind, learning_rate=0.02, chains=100, chain_steps=5)
    rbm = network.rbms[0]
    assert np.abs(rbm.b.reshape(-1, Q).sum(axis=1)).max(initial=0) < 1e-4
    minus = -energy.free_energy(rbm, np.ascontiguousarray(all_states().astype(np.float32)[rbm.visible_ids]))
    p = np.exp(minus - logsumexp(minus))
    codes = all_states().reshape(SITES, Q, -1).argmax(axis=1)
    assert p[codes[0] == codes[1]].sum() > 0.5  # 1/3 where they are independent


@each_grid
def test_pseudo_likelihood_is_that_of_sites(shape) -> None:
    twin, v = Twin(shape, dtype="float64"), all_states()
    minus = -twin.energies(v).reshape((Q,) * SITES)
    mine = np.arange(v.shape[1])[twin.network.grid.replica :: twin.network.grid.n_replicas]
    many = np.tile(mine, 60)
    ids = np.arange(len(many)) * twin.network.grid.n_replicas + twin.network.grid.replica
    got = pseudo_likelihood.pseudo_log_likelihood(twin.rbm, twin.mine(v[:, many]), ids)
    expected = sum((minus - logsumexp(minus, axis=i, keepdims=True)).mean() for i in range(SITES))
    assert got == pytest.approx(expected, abs=0.35)


def data(n=400, seed=3) -> np.ndarray:
    """(n, units) samples whose sites go together: site 1 repeats site 0, site 3 is any but that of site 2"""
    rng = np.random.default_rng(seed)
    a, c = rng.integers(0, Q, n), rng.choice(Q, n, p=[0.6, 0.3, 0.1])
    codes = np.stack([a, a, c, (c + rng.integers(1, Q, n)) % Q], axis=1)
    return np.eye(Q, dtype=bool)[codes].reshape(n, -1)


def trained(shape, layout="column", sync="allreduce", **options) -> DeepBeliefNetwork:
    kind = {name: options.pop(name) for name in ("exact", "hidden") if name in options}
    spec = NetworkSpec(layers=(SITES * Q, HIDDEN), visible=f"categorical:{Q}", layout=layout, seed=5, **kind)
    grid = networks.grid_of(COMM.size, shape)
    owners = np.repeat(networks.owners("random", SITES, shape[0]), Q), networks.owners("strided", HIDDEN, shape[0])
    network = DeepBeliefNetwork(spec, grid, NetworkLayout.from_owners(owners, shape[0], layout))
    training = TrainingSpec(**{"epochs": 2, "batch_size": 20, "learning_rate": 0.05, **options})
    for _ in pretrain(network, open_dataset(data(), comm=COMM), training, SyncSpec(sync)):
        pass
    return network


@pytest.mark.parametrize("options", [{}, {"chains": 30, "chain_steps": 3}, {"gibbs_steps": 3, "statistics": "float"}])
@each_grid
def test_training_stays_in_the_gauge(shape, options) -> None:
    for layout in MATRIX_LAYOUTS:
        rbm = trained(shape, layout, epochs=1, **options).rbms[0]
        rows = rbm.parameters.W if layout != "dual" else rbm.parameters.rows
        for values in (rows, rbm.b[:, None]):
            assert np.abs(values.reshape(-1, Q, values.shape[1]).sum(axis=1)).max(initial=0) < 1e-5


@each_grid
def test_training_learns_what_goes_together(shape) -> None:
    network = trained(shape, epochs=60, chains=100, chain_steps=5, learning_rate=0.1)
    h_samples = network.fantasies(400, 200)
    whole = network.whole_visible(h_samples)
    if whole is not None:
        site = whole.reshape(SITES, Q, -1).argmax(axis=1)
        assert (site[0] == site[1]).mean() > 0.7  # 1/3 where they are independent
        assert (site[2] != site[3]).mean() > 0.9


def test_exact_mode_has_one_result() -> None:
    """The parameters after some updates, byte for byte at every grid and layout; see also tests/exact.py."""
    results = []
    for shape in SHAPES:
        for layout in MATRIX_LAYOUTS:
            network = trained(shape, layout, exact=True, chains=30, chain_steps=3)
            results.append(list(digests_of_parts(network).values()))
    assert all(result == results[0] for result in results)
    assert COMM.allgather(results[0]) == [results[0]] * COMM.size


@each_grid
def test_the_gauge_is_another_form_of_the_same_model(shape) -> None:
    twin, v = Twin(shape, dtype="float64"), all_states()
    before = energy.free_energy(twin.rbm, twin.mine(v))
    twin.rbm.enter_gauge()
    after = energy.free_energy(twin.rbm, twin.mine(v))
    assert np.abs((after - after.mean()) - (before - before.mean())).max() < 1e-9
    assert np.abs(twin.rbm.b.reshape(-1, Q).sum(axis=1)).max(initial=0) < 1e-12


@each_grid
def test_sites_are_given_as_a_whole(shape) -> None:
    twin = Twin(shape)
    v = all_states()[:, :20]
    mask = np.repeat([1, 0, 1, 0], Q)
    made = complete(twin.network, twin.mine(v), twin.mine(mask), steps=5, states=True).reshape(-1, Q, 20)
    assert (made.sum(axis=1) == 1).all()
    known = twin.mine(mask).astype(bool)
    assert np.array_equal(made.reshape(-1, 20)[known], twin.mine(v)[known])
    mask[1] = 0
    with pytest.raises(DataError, match="given as a whole"):
        complete(twin.network, twin.mine(v), twin.mine(mask), steps=5)


def test_what_cannot_be_is_told() -> None:
    grid = networks.grid_of(COMM.size, SHAPES[-1])
    spec = NetworkSpec(layers=(SITES * Q, HIDDEN), visible=f"categorical:{Q}")
    network = DeepBeliefNetwork(spec, grid)
    wrong = data()
    wrong[7, 3:6] = True
    with pytest.raises(DataError, match=r"3 units that are 1 at site 1 of sample 7, but of the 3 units of a site one"):
        list(pretrain(network, open_dataset(wrong, comm=COMM), TrainingSpec(epochs=1)))
    with pytest.raises(SpecError, match="makes Bernoulli states, but --visible is categorical:3"):
        list(pretrain(network, open_dataset(data(), comm=COMM, binarise=0.5), TrainingSpec(epochs=1)))
    if grid.n_shards > 1:
        split = NetworkLayout.from_owners([np.arange(SITES * Q) % grid.n_shards, np.zeros(HIDDEN, int)], grid.n_shards)
        with pytest.raises(LayoutError, match="units of one site to several shards"):
            DeepBeliefNetwork(spec, grid, split)
    placed = place(spec, grid.n_shards, COMM, partitioner="strided")
    assert not placed.layers[0].splits(Q)
    DeepBeliefNetwork(spec, grid, placed)
