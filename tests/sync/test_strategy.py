"""Which strategy a spec names."""

from __future__ import annotations

from collections import Counter

import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.spec import SyncSpec
from modelpar.sync import AllreduceSync, LocalSGD, ParameterServer, strategy


@pytest.mark.parametrize(
    ("name", "kind"), [("allreduce", AllreduceSync), ("local", LocalSGD), ("server", ParameterServer)]
)
def test_the_strategy_that_was_asked_for(name, kind):
    with Grid(MPI.COMM_SELF) as grid:
        staleness = Counter()
        sync = strategy(SyncSpec(name), grid, Traffic(), staleness)
        assert type(sync) is kind
        assert sync.alike
        assert sync.in_step
        assert name != "server" or sync.staleness is staleness
