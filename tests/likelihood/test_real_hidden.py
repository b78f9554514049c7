"""Likelihoods of RBMs with real hidden units against enumeration, quadrature and a closed form, over every grid."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.chains.clamped import complete
from modelpar.errors import SpecError
from modelpar.kernels.states import pack
from modelpar.likelihood.annealing import log_partition_ais, reverse_log_likelihoods, temperatures
from modelpar.likelihood.conditional import conditional_log_likelihoods
from modelpar.likelihood.energy import free_energy, log_likelihood
from modelpar.likelihood.enumeration import log_partition_exact
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from modelpar.likelihood.score import score
from tests.likelihood.cases import all_states
from tests.model.test_real_hidden import KINDS, SHAPES, machine, some_visible
from tests.reference_real import RealRBM, some_potential

pytestmark = pytest.mark.ranks

each_kind = pytest.mark.parametrize("kind", KINDS)
shapes = pytest.mark.parametrize("shape", SHAPES, ids="{0[0]}x{0[1]}".format)
each_visible = pytest.mark.parametrize("visible", ["bernoulli", "gaussian", "categorical:3"])
CHAINS = 200


@each_visible
@each_kind
@shapes
def test_free_energies_are_integrals(comm, agree, shape, kind, visible):
    network, twin = machine(comm, shape, kind, layout="row", visible=visible)
    rbm, v = network.rbms[0], some_visible(visible, 9, 30, np.random.default_rng(3))
    own = np.ascontiguousarray(v[rbm.visible_ids])
    agree(np.allclose(free_energy(rbm, own), -twin.log_unnormalised(v), rtol=0, atol=1e-8))


@each_kind
@shapes
def test_exact_values_with_states_on_the_visible_side(comm, agree, shape, kind):
    """log Z, mean likelihood, pseudo-likelihood and likelihood of a part, all by visible states of the reference."""
    network, twin = machine(comm, shape, kind)
    rbm, grid = network.rbms[0], network.grid
    log_z = twin.log_partition()
    agree(np.isclose(log_partition_exact(rbm), log_z, rtol=0, atol=1e-8))
    v = all_states(9)[:, 5::17]
    mine = np.array_split(np.arange(v.shape[1]), grid.n_replicas)[grid.replica]
    own = np.ascontiguousarray(v[:, mine][rbm.visible_ids])
    log_p = twin.log_unnormalised(v) - log_z
    agree(np.isclose(log_likelihood(rbm, own, log_z), log_p.mean(), atol=1e-8))
    found = score(network, pack(own), mine)
    agree(found.method == "exact" and np.isclose(found.log_likelihood, log_p.mean(), atol=1e-8))
    mask = np.ones(9)
    mask[[1, 4]] = 0
    part = [log_p]
    for flipped in ([1], [4], [1, 4]):
        other = v.copy()
        other[flipped] = 1 - other[flipped]
        part.append(twin.log_unnormalised(other) - log_z)
    expected = log_p - np.logaddexp.reduce(part)
    agree(np.allclose(conditional_log_likelihoods(rbm, own, mask[rbm.visible_ids]), expected[mine], atol=1e-8))
    every = []
    for i in range(9):
        other = v.copy()
        other[i] = 1 - other[i]
        every.append(log_p - np.logaddexp(log_p, twin.log_unnormalised(other) - log_z))
    many = np.tile(own, 40)
    estimate = pseudo_log_likelihood(rbm, many, np.arange(many.shape[1]) + 100_000 * grid.replica)
    agree(abs(estimate - np.sum(every, axis=0).mean()) < 5 * 9 * np.std(every) / np.sqrt(40 * v.shape[1]))


@each_visible
@each_kind
@shapes
def test_annealing_tends_to_the_truth(comm, agree, shape, kind, visible):
    """Forwards, log Z within 5 of its own errors; in reverse, the mean likelihood of samples of the model."""
    network, twin = machine(comm, shape, kind, visible=visible, sizes=(6, 2))
    rbm, grid = network.rbms[0], network.grid
    truth = twin.log_partition()
    if visible == kind == "gaussian":  # all is one normal distribution
        precision = np.block([[np.diag(twin.precision), -twin.W], [-twin.W.T, np.eye(2)]])
        field = np.concatenate([twin.b, twin.c])
        log_det = np.linalg.slogdet(precision)[1]
        closed = 0.5 * field @ np.linalg.solve(precision, field) - 0.5 * log_det + 4 * np.log(2 * np.pi)
        assert np.isclose(truth, closed - 0.5 * twin.b @ (twin.b / twin.precision), atol=1e-8)
    betas = temperatures(rbm, 150)
    found = log_partition_ais(rbm, CHAINS, betas=betas)
    agree(abs(found.value - truth) < 5 * found.error + 1e-6 and found.error < 0.1, f"{found} is not {truth}")
    v = some_visible(visible, 6, 60, np.random.default_rng(1))
    if visible == "gaussian":
        v = v + (twin.b / twin.precision)[:, None]
    else:  # of the model itself
        states, u = twin.all_states(), np.random.default_rng(1).random(60)
        cumulated = np.cumsum(np.exp(twin.log_unnormalised(states) - truth))
        v = states[:, np.minimum(np.searchsorted(cumulated, u), len(cumulated) - 1)]
    mine = np.array_split(np.arange(60), grid.n_replicas)[grid.replica]
    own = np.ascontiguousarray(v[:, mine][rbm.visible_ids])
    estimates = reverse_log_likelihoods(rbm, own, mine, betas)
    exact = -free_energy(rbm, own) - truth
    gaps = np.concatenate(grid.replica_comm.allgather(estimates - exact))
    agree(abs(gaps.mean()) < 5 * gaps.std() / np.sqrt(60) + 0.02, f"{gaps.mean()} +- {gaps.std() / np.sqrt(60)}")


@shapes
def test_what_cannot_be_told_is_refused(comm, shape):
    network, _ = machine(comm, shape, "drelu", visible="gaussian")
    rbm, grid = network.rbms[0], network.grid
    with pytest.raises(SpecError, match="states on one side"):
        log_partition_exact(rbm)
    own = np.zeros((len(rbm.visible_ids), 4 if grid.replica == 0 else 0))
    assert score(network, own, np.arange(own.shape[1]), n_chains=4, n_betas=4).method == "ais+reverse-ais"


@pytest.mark.parametrize("visible", ["bernoulli", "categorical:3"])
@each_kind
@shapes
def test_the_way_through_models_kept_from_training(comm, agree, shape, kind, visible):
    """Both directions find the truth, through models with other weights, biases and potentials; the last model's log Z
    comes out wrong by its errors many times over where only the weights go along."""
    network, twin = machine(comm, shape, kind, visible=visible, sizes=(6, 2))
    rbm, grid, rng = network.rbms[0], network.grid, np.random.default_rng(9)
    kept = []
    for part in (0.2, 0.6):
        parameters = rbm.parameters.like()
        parameters.flat[:] = part * rbm.parameters.flat
        moved = some_potential(kind, 2, rng)
        parameters.potential[:], parameters.c[:] = moved[:, rbm.hidden_ids], rng.normal(size=2)[rbm.hidden_ids]
        kept.append(rbm.with_parameters(parameters))
    truth, betas = twin.log_partition(), temperatures(rbm, 150, kept=kept)
    found = log_partition_ais(rbm, CHAINS, betas=betas, kept=kept)
    agree(abs(found.value - truth) < 5 * found.error + 1e-6 and found.error < 0.03, f"{found} is not {truth}")
    states, u = twin.all_states(), np.random.default_rng(1).random(60)
    cumulated = np.cumsum(np.exp(twin.log_unnormalised(states) - truth))
    v = states[:, np.minimum(np.searchsorted(cumulated, u), len(cumulated) - 1)]
    mine = np.array_split(np.arange(60), grid.n_replicas)[grid.replica]
    own = np.ascontiguousarray(v[:, mine][rbm.visible_ids])
    estimates = reverse_log_likelihoods(rbm, own, mine, betas, kept=kept)
    gaps = np.concatenate(grid.replica_comm.allgather(estimates + free_energy(rbm, own) + truth))
    agree(abs(gaps.mean()) < 5 * gaps.std() / np.sqrt(60) + 0.02, f"{gaps.mean()} +- {gaps.std() / np.sqrt(60)}")


def test_gaussian_completion_has_the_conditional_distribution(comm, agree):
    """Means of the free units given the others, by integrals over the hidden units, within 5 standard errors."""
    network, twin = machine(comm, SHAPES[-1], "drelu", sizes=(4, 2), visible="gaussian")
    given, known, count = np.array([[1.3], [-0.7], [0.0], [0.0]]), np.array([1, 1, 0, 0]), 2000
    own = network.rbms[0].visible_ids
    found = complete(network, given[own], known[own], count=count, steps=20)
    # what is given is a field on the hidden units, and the others are a smaller RBM
    c = twin.c + twin.W[:2].T @ given[:2, 0]
    how = {"gaussian": True, "precision": twin.precision[2:], "seed": 0}
    rest = RealRBM(twin.W[2:], twin.b[2:], c, "drelu", twin.potential, **how)
    mean, square = rest.visible_moments()
    error = np.sqrt(square - mean**2) / np.sqrt(count)
    for unit, expected, bound in zip((2, 3), mean, 5 * error, strict=True):
        agree((np.abs(found[own == unit].mean(axis=1) - expected) < bound).all())
    agree(np.array_equal(found[known[own] == 1], np.repeat(given[own][known[own] == 1], count, axis=1)))


@each_kind
@shapes
def test_sites_are_completed_as_their_conditional_distribution_says(comm, agree, shape, kind):
    """Probabilities of the categories of one site given the other, within 5 standard errors."""
    network, twin = machine(comm, shape, kind, sizes=(6, 2), visible="categorical:3")
    given, known, count = np.array([[0.0], [1.0], [0.0], [0.0], [0.0], [0.0]]), np.array([1, 1, 1, 0, 0, 0]), 1000
    own = network.rbms[0].visible_ids
    found = complete(network, given[own], known[own], count=count, steps=12)
    states = np.repeat(given, 3, axis=1)
    states[3:] = np.eye(3)
    p = np.exp(twin.log_unnormalised(states))
    expected = states @ (p / p.sum())
    agree(np.abs(found.mean(axis=1) - expected[own]).max(initial=0) < 5 * 0.5 / np.sqrt(count))


@each_kind
@shapes
def test_completion_has_the_conditional_distribution(comm, agree, shape, kind):
    """Means of the free units given the others, over states, within 5 standard errors."""
    network, twin = machine(comm, shape, kind, sizes=(5, 3))
    v = np.array([[1.0], [0.0], [1.0], [0.0], [0.0]])
    mask = np.array([1, 1, 0, 1, 0])
    own = network.rbms[0].visible_ids
    count = 1000
    found = complete(network, v[own], mask[own], count=count, steps=12)
    states = np.repeat(v, 4, axis=1)
    states[2], states[4] = [0, 0, 1, 1], [0, 1, 0, 1]
    p = np.exp(twin.log_unnormalised(states))
    expected = states @ (p / p.sum())
    agree(np.abs(found.mean(axis=1) - expected[own]).max(initial=0) < 5 * 0.5 / np.sqrt(count))
    agree(np.array_equal(found[mask[own] == 1], np.repeat(v[own][mask[own] == 1], count, axis=1)))
