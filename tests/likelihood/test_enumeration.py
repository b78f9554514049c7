"""log Z by enumeration against the sum over all pairs of states, at every grid of the ranks."""

from __future__ import annotations

import numpy as np
import pytest

from modelpar.errors import SpecError
from modelpar.likelihood import enumeration
from modelpar.likelihood.enumeration import log_partition_exact
from tests.likelihood.cases import each_grid, each_owner, exact_log_partition, same_everywhere

pytestmark = pytest.mark.ranks


@each_grid
@pytest.mark.parametrize("shape", [(7, 5), (4, 9)], ids=["over hidden", "over visible"])
@each_owner
def test_the_exact_log_partition(comm, agree, case, n_shards, shape, owners, hold):
    it = case(n_shards, *shape, owners=owners, hold=hold)
    result = log_partition_exact(it.rbm)
    agree(np.isclose(result, exact_log_partition(it.whole), rtol=1e-12))
    agree(same_everywhere(comm, result))


@each_grid
def test_the_exact_log_partition_over_more_states_than_fit_at_a_time(agree, case, n_shards, monkeypatch):
    monkeypatch.setattr(enumeration, "LOW_UNITS", 2)
    it = case(n_shards)
    agree(np.isclose(log_partition_exact(it.rbm), exact_log_partition(it.whole), rtol=1e-12))


@each_grid
@pytest.mark.parametrize("shape", [(7, 5), (4, 9)], ids=["more visible", "more hidden"])
def test_the_exact_log_partition_with_gaussian_units(comm, agree, case, n_shards, shape):
    it = case(n_shards, *shape, gaussian=True)
    result = log_partition_exact(it.rbm)
    agree(np.isclose(result, exact_log_partition(it.whole), rtol=1e-12))
    agree(same_everywhere(comm, result))


@each_grid
def test_too_many_units_are_refused_on_every_rank(agree, case, n_shards):
    wide = case(n_shards, 27, 26)
    with pytest.raises(SpecError, match="at most 25 hidden units, but there are 26"):
        log_partition_exact(wide.rbm)
    agree(True)
