"""The pseudo-likelihood against sums over all states, at every grid of the ranks."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.errors import SpecError
from modelpar.likelihood.energy import log_likelihood
from modelpar.likelihood.pseudo_likelihood import pseudo_log_likelihood
from tests import reference
from tests.likelihood.cases import each_grid, each_owner, log_sum_over_hidden, same_everywhere

pytestmark = pytest.mark.ranks


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
    result = pseudo_log_likelihood(it.rbm, it.mine(v[:, mine]), ids[mine], seed=77)
    agree(np.isclose(result, expected_pseudo_likelihood(it.whole, v, ids, 77), rtol=1e-12))
    agree(same_everywhere(comm, result))


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
    result = pseudo_log_likelihood(it.rbm, it.mine(np.repeat(v, 20000, axis=1)), np.arange(20000))
    agree(abs(result - sum(values)) < 5 * 7 * np.std(values) / np.sqrt(20000))


@each_grid
def test_without_samples_there_is_no_mean(agree, case, n_shards):
    it = case(n_shards)
    none = it.mine(np.empty((7, 0)))
    agree(np.isnan(pseudo_log_likelihood(it.rbm, none, np.empty(0, np.int64))))
    agree(np.isnan(log_likelihood(it.rbm, none, 0.0)))


@each_grid
def test_gaussian_units_are_refused_on_every_rank(agree, case, n_shards):
    gaussian = case(n_shards, gaussian=True)
    with pytest.raises(SpecError, match="Gaussian"):
        pseudo_log_likelihood(gaussian.rbm, gaussian.mine(np.zeros((7, 1))), np.zeros(1, np.int64))
    agree(True)
