"""Diagnoses at every grid of the ranks: against NumPy, against closed forms, and the same numbers everywhere.

Modules: modelpar/diagnosis/neighbours, modelpar/diagnosis/sampling, modelpar/diagnosis/spectrum
"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from mpi4py import MPI

from modelpar import DeepBeliefNetwork, Grid, NetworkSpec
from modelpar.chains.gibbs import Chains
from modelpar.data.minibatches import Minibatches
from modelpar.diagnosis.neighbours import adversarial_accuracy
from modelpar.diagnosis.report import diagnose
from modelpar.diagnosis.sampling import resample, whole
from modelpar.diagnosis.spectrum import effective_rank, singular_values
from modelpar.errors import DataError
from modelpar.kernels.states import pack
from tests import networks, reference

pytestmark = [pytest.mark.ranks(2, 3), pytest.mark.slow]

shapes = pytest.mark.parametrize("shape", networks.grids(MPI.COMM_WORLD), ids=str)


def share(network, v):
    """(this replica's columns of the owned rows, packed; their ids)"""
    grid = network.grid
    ids = np.arange(v.shape[1])[Minibatches.slice_of(v.shape[1], grid.replica, grid.n_replicas)]
    block = np.ascontiguousarray(v[np.ix_(network.visible_ids, ids)])
    return (pack(block) if v.dtype.kind in "ui" else block), ids


def biased(n_visible, n_samples, seed, p=None):
    rng = np.random.default_rng(seed)
    p = rng.uniform(0.05, 0.95, n_visible) if p is None else p
    return (rng.random((n_visible, n_samples)) < p[:, None]).astype(np.uint8), p


def by_pairs(truth, synthetic):
    """(truth, synthetic), sample by sample; both neighbours equally far count one half"""

    def side(own, other):
        parts = []
        for i, x in enumerate(own.T.astype(float)):
            mine = min(((x - y) ** 2).sum() for j, y in enumerate(own.T) if j != i)
            theirs = min(((x - y) ** 2).sum() for y in other.T)
            parts.append(1.0 if theirs > mine else 0.5 if theirs == mine else 0.0)
        return np.mean(parts)

    return side(truth, synthetic), side(synthetic, truth)


@shapes
@pytest.mark.parametrize("kind", ["states", "values"])
def test_adversarial_accuracy(comm, agree, shape, kind):
    network = networks.sharded(comm, NetworkSpec((13, 7), dtype="float64"), shape, "random")
    comms = network.grid.shard_comm, network.grid.replica_comm
    rng = np.random.default_rng(8)
    a, _ = biased(13, 41, 1)
    b, _ = biased(13, 41, 2)
    different = np.array([list(f"{i:013b}") for i in range(41)], np.uint8).T
    if kind == "values":
        a, b, different = (x + rng.normal(0, 0.3, x.shape) for x in (a, b, different))
    near = adversarial_accuracy(share(network, a)[0], share(network, b)[0], *comms)
    agree(np.allclose([near.truth, near.synthetic], by_pairs(a, b), atol=1e-12))
    itself = adversarial_accuracy(share(network, different)[0], share(network, different)[0], *comms)
    agree((itself.truth, itself.synthetic) == (0.0, 0.0))
    zeros, ones = (np.full_like(different, x) for x in (0, 1))
    far = adversarial_accuracy(share(network, zeros)[0], share(network, ones)[0], *comms)
    agree((far.truth, far.synthetic) == (1.0, 1.0))
    agree(np.all(far.distances["truth_synthetic"] == 13) and np.all(far.distances["truth_truth"] == 0))


@shapes
def test_samples_find_their_way(comm, agree, shape):
    """Any samples in any order, and any units, of those that all ranks hold together."""
    network = networks.sharded(comm, NetworkSpec((13, 7)), shape, "random")
    v, _ = biased(13, 70, 3)
    mine, _ = share(network, v)
    wanted = np.r_[5, 69, 5, 0, np.arange(40, 50)]
    chosen = resample(network, mine, wanted)
    agree(np.array_equal(whole(network, chosen, np.arange(13)), v[:, wanted]))
    agree(np.array_equal(whole(network, mine, np.array([2, 3, 11])), v[[2, 3, 11]]))


@shapes
@pytest.mark.parametrize("connections", ["dense", "random:4"])
def test_singular_values(comm, agree, shape, connections):
    grid = networks.grid_of(comm.size, shape)
    for layers in ((13, 7), (6, 11)):
        network = DeepBeliefNetwork(NetworkSpec(layers, connections=connections, weight_scale=1.0), grid)
        whole_W = network.filters(range(layers[1])).T.astype(float)
        expected = np.linalg.svd(whole_W, compute_uv=False)
        result = singular_values(network.rbms[0], *layers)
        agree(np.allclose(result, expected, atol=1e-5))
        agree(np.allclose(singular_values(network.rbms[0], *layers, 3), expected[:3], atol=1e-5))
    agree(singular_values(network.rbms[0], 1 << 20, 1 << 20) is None)
    agree(math.isclose(effective_rank(np.array([2.0, 2.0, 0.0])), 2.0))


def independent(comm, shape, p, n_hidden=9):
    """A network without weights whose visible units are 1 with probabilities p."""
    network = networks.sharded(comm, NetworkSpec((len(p), n_hidden), dtype="float64"), shape, "strided")
    rbm = network.rbms[0]
    rbm.W[...] = 0
    rbm.b[...] = np.log(p / (1 - p))[network.visible_ids]
    rbm.refresh()
    return network


@shapes
def test_independent_units_mix_at_once(comm, agree, shape):
    """Every sweep draws anew: rho is 0 from lag 1 on, both starts meet after one sweep, data of the same p are near."""
    v, p = biased(20, 600, 5)
    others, _ = biased(20, 600, 6, p)
    network = independent(comm, shape, p)
    result = diagnose(network, share(network, v), share(network, others), n_chains=600, n_sweeps=60, seed=3)
    agree(np.abs(result.autocorrelation[1:20]).max() < 0.01)
    agree(result.mixing_time == 1 and abs(result.autocorrelation_time - 1) < 0.1)
    agree(result.meeting_time == 1)
    # the spread of a difference of two means of 600 samples
    noise = math.sqrt(float((p * (1 - p)).mean()) * 2 / 600)
    agree(all(0.5 * noise < d.means[-1] < 1.6 * noise for d in result.distances.values()))
    agree(0.5 * noise < result.floor[0] < 1.6 * noise)
    agree(result.distances["random"].means[0] > 5 * noise and result.distances["data"].means[0] == 0)
    agree(abs(result.neighbours.truth - 0.5) < 0.07 and abs(result.neighbours.synthetic - 0.5) < 0.07)
    # F(v) = -b v - 9 log 2
    b = np.log(p / (1 - p))
    agree(np.allclose(np.sort(result.free_energies["held_out"]), np.sort(-b @ v - 9 * math.log(2))))
    agree(math.isclose(result.gap.gap, (-b @ v).mean() - (-b @ others).mean(), abs_tol=1e-9))
    agree(result.moments["means"].slope > 0.95 and result.moments["means"].r > 0.99)
    agree(not result.doubts and result.chains_from == "data")


@shapes
def test_real_values_of_independent_units(comm, agree, shape):
    """Gaussian units without weights: N(b, 1) in every sweep, and F(v) = |v - b|^2 / 2 - 4 log 2."""
    spec = NetworkSpec((20, 4), visible="gaussian", dtype="float64", seed=2)
    network = networks.sharded(comm, spec, shape, "random")
    rbm, rng, b = network.rbms[0], np.random.default_rng(3), np.linspace(-2, 2, 20)
    rbm.W[...], rbm.b[...] = 0, b[rbm.visible_ids]
    rbm.refresh()
    v, others = (b[:, None] + rng.normal(size=(20, n)) for n in (500, 300))
    h = Chains.of_replica(rng.integers(0, 2, (4, 50))[rbm.hidden_ids], network.grid.replica, network.grid.n_replicas)
    result = diagnose(network, share(network, v), share(network, others), h, n_chains=500, n_sweeps=40, pictures=True)
    agree(result.chains_from == "run" and result.shown.shape == (len(result.shown_sweeps), 20, 6))
    agree(np.allclose(result.shown[1:], b[:, None]) and result.meeting_time <= 1 and result.mixing_time == 1)
    agree(np.abs(result.autocorrelation[1:10]).max() < 0.05)
    # six standard errors of 500 samples
    agree(np.allclose(result.samples.means, b, atol=6 / math.sqrt(500)))
    agree(np.allclose(result.samples.covariances, np.eye(20), atol=6 * math.sqrt(2 / 500)))
    agree(np.allclose(result.data.covariances, np.cov(v, bias=True), atol=1e-12))
    energies = [((x - b[:, None]) ** 2).sum(axis=0) / 2 - 4 * math.log(2) for x in (v, others)]
    agree(np.allclose(np.sort(result.free_energies["held_out"]), np.sort(energies[0])))
    agree(math.isclose(result.gap.gap, energies[0].mean() - energies[1].mean(), abs_tol=1e-9))
    json.dumps(result.as_json(), allow_nan=False)


@shapes
def test_slow_chains_and_stacks_are_the_same_at_every_grid(comm, agree, shape):
    """Against the same network on one rank, from the chains of a training."""
    rng = np.random.default_rng(9)
    v, h = biased(13, 50, 7)[0], rng.integers(0, 2, (5, 30)).astype(np.uint8)
    spec = NetworkSpec((13, 7, 5), dtype="float64", seed=4)
    results = []
    with Grid(MPI.COMM_SELF) as alone:
        for network in (
            networks.sharded(comm, spec, shape, "random"),
            DeepBeliefNetwork(spec, alone),
        ):
            for rbm, W in zip(network.rbms, (rng_of(1, 13, 7), rng_of(2, 7, 5)), strict=True):
                rbm.W[...] = networks.held(rbm, W)
            network.refresh()
            grid = network.grid
            chains = Chains.of_replica(h[network.rbms[-1].hidden_ids], grid.replica, grid.n_replicas)
            result = diagnose(
                network, share(network, v), share(network, v[:, :31]), chains,
                n_chains=37, n_sweeps=40, triples=True, pictures=True,
            )  # fmt: skip
            results.append((result.as_json(), result.shown))
    (mine, shown), (expected, shown_alone) = results
    agree(np.allclose(shown, shown_alone, atol=1e-12) and shown.shape[1:] == (13, 6))
    agree(close(mine, expected))
    json.dumps(mine, allow_nan=False)
    # tau of one or more sweeps; chains of the training, 30 of them
    agree(mine["chains_from"] == "run" and mine["autocorrelation_time"] > 1 and set(mine["distance"]) >= {"run"})


def rng_of(seed, *shape):
    return np.random.default_rng(seed).normal(0, 1, shape)


def close(a, b):
    """JSON values alike to 1e-9, the time that they took left out."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[k], b[k]) for k in a if k != "seconds")
    if isinstance(a, list):
        return len(a) == len(b) and all(map(close, a, b))
    return math.isclose(a, b, rel_tol=1e-9, abs_tol=1e-9) if isinstance(a, float) else a == b


@shapes
def test_chains_are_those_of_the_model(comm, agree, shape):
    """The autocorrelation of chains in plain NumPy, by its own random numbers, to the spread of both."""
    W, b, c = rng_of(3, 12, 6), rng_of(4, 12), rng_of(5, 6)
    network = networks.sharded(comm, NetworkSpec((12, 6), dtype="float64"), shape, "random")
    rbm = network.rbms[0]
    rbm.W[...], rbm.b[...], rbm.c[...] = networks.held(rbm, W), b[rbm.visible_ids], c[rbm.hidden_ids]
    network.refresh()
    rng, v, series = np.random.default_rng(1), np.zeros((12, 400)), []
    for _ in range(150):
        h = (rng.random((6, 400)) < reference.sigmoid(W.T @ v + c[:, None])).astype(float)
        v = (rng.random((12, 400)) < reference.sigmoid(W @ h + b[:, None])).astype(float)
        series.append(v)
    x = np.stack(series[50:])
    y = x - x.mean(axis=(0, 2))[None, :, None]
    expected = np.array([(y[: len(y) - t] * y[t:]).mean() for t in range(8)])
    data = x[-1].astype(np.uint8)
    result = diagnose(network, share(network, data), n_chains=400, n_sweeps=100)
    agree(np.allclose(result.autocorrelation[:8], expected / expected[0], atol=0.03))
    # four times the spread of 400 samples, at most
    flat = x.transpose(1, 0, 2).reshape(12, -1)
    agree(np.allclose(result.samples.means, flat.mean(axis=1), atol=0.1))
    agree(np.allclose(result.samples.covariances, np.cov(flat), atol=0.05))


@shapes
def test_weights_of_samples(comm, agree, shape):
    """Data of two kinds, of which weights leave one: what is said of them is said of that one."""
    v, p = biased(20, 300, 5)
    both = np.concatenate([v, 1 - v], axis=1)
    weights = np.r_[np.ones(300), np.full(300, 1e-9)]
    network = independent(comm, shape, p)
    held_out = share(network, both)
    result = diagnose(network, held_out, held_out, n_chains=300, n_sweeps=3, weights=weights[held_out[1]],
                      training_weights=weights[held_out[1]])  # fmt: skip
    agree(np.allclose(result.data.means, v.mean(axis=1), atol=1e-6) and abs(result.data.n - 300) < 1)
    agree(math.isclose(result.mean_free_energies["held_out"], (-np.log(p / (1 - p)) @ v).mean() - 9 * math.log(2),
                       rel_tol=1e-6))  # fmt: skip
    agree(abs(result.gap.gap) < 1e-9 and result.moments["means"].slope > 0.9)
    agree(result.distances["data"].means[0] < 1e-6 and abs(result.neighbours.truth - 0.5) < 0.1)


def test_what_cannot_be_compared(comm, agree):
    network = independent(comm, networks.grids(comm)[0], np.full(5, 0.5))
    one = biased(5, 1, 1)[0]
    with pytest.raises(DataError, match="at least 2 are needed"):
        diagnose(network, share(network, one))
    agree(True)
    # a unit that never changes, and fewer samples than chains
    network.rbms[0].b[...] = 50
    ones = np.ones((5, 3), np.uint8)
    result = diagnose(network, share(network, ones), n_chains=8, n_sweeps=5)
    agree(result.autocorrelation is None and result.mixing_time is None and len(result.doubts) == 1)
    agree(result.as_json()["moments"]["means"]["slope"] is None)
