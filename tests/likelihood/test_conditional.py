"""The likelihood of a part given the rest, against sums over all states in plain NumPy."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.errors import DataError, SpecError
from modelpar.kernels.states import pack
from modelpar.likelihood import conditional
from modelpar.likelihood.conditional import conditional_log_likelihoods
from tests.likelihood.cases import all_states, each_grid, each_owner, log_sum_over_hidden, same_everywhere

pytestmark = pytest.mark.ranks

N = 9  # samples
RNG = np.random.default_rng(2)
V = RNG.integers(0, 2, (7, N)).astype(float)
MASK = RNG.integers(0, 2, (7, N))
MASK[:, 0], MASK[:, 1] = 1, 0  # nothing to tell, and everything


def expected(whole, v, mask):
    """Sample by sample: log p*(v) less the log of the sum over all states that agree with the given units."""
    states = all_states(len(whole.b))
    result = []
    for sample, given in zip(v.T, mask.T, strict=True):
        alike = states[:, (states == sample[:, None])[given == 1].all(axis=0)]
        logs = log_sum_over_hidden(whole, alike)
        result.append(log_sum_over_hidden(whole, sample[:, None])[0] - np.log(np.exp(logs).sum()))
    return np.array(result)


@each_grid
@each_owner
def test_parts_of_every_size(agree, case, n_shards, owners, hold, monkeypatch):
    monkeypatch.setattr(conditional, "LOW_UNITS", 2)  # so that there are states above these
    it = case(n_shards, owners=owners, hold=hold)
    mine = it.share(N)
    result = conditional_log_likelihoods(it.rbm, it.mine(V[:, mine]), it.mine(MASK[:, mine]))
    agree(np.allclose(result, expected(it.whole, V, MASK)[mine], rtol=0, atol=1e-9))
    agree(same_everywhere(it.grid.shard_comm, result))


@each_grid
def test_one_part_for_all_samples_of_states(agree, case, n_shards):
    it = case(n_shards)
    of_all = np.array([1, 0, 0, 1, 1, 0, 1])
    result = conditional_log_likelihoods(it.rbm, pack(it.mine(V)), it.mine(of_all))
    agree(np.allclose(result, expected(it.whole, V, np.repeat(of_all[:, None], N, axis=1)), rtol=0, atol=1e-9))


@each_grid
def test_what_cannot_be_enumerated_is_refused_on_every_rank(agree, case, n_shards):
    it = case(n_shards)
    for v, mask, message in (
        (V * 0.5, MASK, "value 0.5"),
        (V, MASK + 1, "value 2"),
        (V, MASK[:, :3], "came as"),
    ):
        with pytest.raises(DataError, match=message):
            conditional_log_likelihoods(it.rbm, it.mine(v), it.mine(mask))
        agree(True)
    wide = case(n_shards, 23, 3)
    with pytest.raises(SpecError, match="21 units"):
        conditional_log_likelihoods(wide.rbm, wide.mine(np.zeros((23, 2))), wide.mine(np.arange(23) < 2))
    gaussian = case(n_shards, gaussian=True)
    with pytest.raises(SpecError, match="Gaussian"):
        conditional_log_likelihoods(gaussian.rbm, gaussian.mine(V), gaussian.mine(MASK))
    agree(True)
