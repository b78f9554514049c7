"""A parameter server with one replica, in one process: what it fetches and pushes, and what is left at the end.

Modules: modelpar/sync/stop_notes
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.comm.grid import Grid
from modelpar.spec import SyncSpec
from modelpar.sync import ParameterServer, Share, Work
from modelpar.weights.parameters import Parameters


@pytest.fixture
def grid():
    with Grid(MPI.COMM_SELF) as made:
        yield made


def begun(grid, **how):
    """(server, work)"""
    parts = {name: Parameters(shape, 1, 1, np.float64) for name, shape in (("rbm.0", (3, 2)), ("output", (2, 4)))}
    work = Work(parts, {name: part.like() for name, part in parts.items()}, {}, {}, lambda: None)
    server = ParameterServer(grid, Traffic(), SyncSpec("server", **how), Counter())
    server.begin(work)
    return server, work


@pytest.mark.parametrize(("fetch_every", "push_every"), [(1, 1), (3, 1), (1, 3), (2, 5)])
def test_what_is_learned_is_there_at_the_end(grid, fetch_every, push_every):
    """Steps that are not pushed yet survive a fetch, and what is left is pushed last."""
    server, work = begun(grid, fetch_every=fetch_every, push_every=push_every)
    shares = []
    for share in server.shares(4, 15, 4, 0.1):
        assert not server.alike
        assert server.reduction.size == 1
        for part in work.parts.values():
            assert (part.flat == len(shares)).all()
            part.flat += 1
        shares.append(share)
    assert shares == [Share(step, 0, 1) for step in range(4, 15)]
    assert server.alike
    assert all((part.flat == 11).all() for part in work.parts.values())
    assert server.staleness == {0: -(-11 // push_every)}
    server.end()


def test_adagrad_divides_by_all_gradients_so_far(grid):
    server, work = begun(grid, adagrad=True)
    rate, gradient, squares, expected = 0.25, 2.0, 0.0, 0.0
    for _ in server.shares(0, 5, 0, rate):
        assert not server.reduction.momentum
        for part in work.parts.values():
            part.flat += rate * gradient
        squares += gradient**2
        expected += rate * gradient / (np.sqrt(squares) + 1e-8)
    for name, part in work.parts.items():
        assert np.allclose(part.flat, expected, rtol=1e-12)
        assert np.allclose(work.squares[name].flat, squares, rtol=1e-12)
    server.end()


def test_a_warm_start_has_sums_over_all_replicas(grid):
    server, _ = begun(grid, warm_start=3, meet_every=5)
    assert [server.steps_together(done) for done in (0, 2, 3, 5)] == [1, 1, 2, 5]
    for share in server.shares(0, 1, 0, 0.1):
        assert share == Share(0, 0, 1)
        assert server.alike
        assert server.in_step
        assert server.reduction.comm == grid.replica_comm
    for _ in server.shares(3, 4, 3, 0.1):
        assert not server.in_step
        assert server.reduction.n_shares == grid.n_replicas
    assert server.salvage() is None
    server.end()


def test_a_rank_that_is_asked_to_end_cuts_the_segment_short(grid):
    server, _ = begun(grid)
    steps = []
    for share in server.shares(4, 15, 4, 0.1):
        steps.append(share.step)
        grid.status.stop = 10 if len(steps) == 3 else grid.status.stop
    assert steps == [4, 5, 6]
    assert server.reached == 7
    server.end()


def test_what_is_left_when_another_rank_is_lost(grid):
    """Between two steps: what was fetched, what is hosted, and how many steps were handed out."""
    server, work = begun(grid)
    shares = server.shares(0, 6, 0, 0.1)
    for _ in range(3):
        next(shares)
        for part in work.parts.values():
            part.flat += 1
    salvage = server.salvage()
    assert salvage.steps == 2  # the third has begun and is not pushed
    assert (salvage.base == 2).all()
    assert salvage.hosted[0] == 0
    assert np.array_equal(salvage.hosted[1], salvage.base)
    assert list(salvage.slices) == ["rbm.0", "output"]
    list(shares)
    server.end()
