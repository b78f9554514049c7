"""Exchanges measured between ranks as if each were on a node of its own: all of them, and the parts of a grid."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.bench import calibrate, exchanges
from modelpar.plan.machine import of_members

pytestmark = pytest.mark.ranks


def test_every_part_of_a_grid_is_measured(comm: MPI.Comm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exchanges, "RECEIVED", (1 << 6, 1 << 12, 1 << 13))
    monkeypatch.setattr(exchanges, "LONGEST", 0.0)
    monkeypatch.setattr(exchanges, "FEWEST", 2)
    parts = {1: (), 2: (2,), 3: (3,), 4: (2, 4)}[comm.size]
    found = exchanges.curves_between(comm)
    assert set(found) == {
        of_members(f"{verb} {kind}", n, between=True)
        for verb, kind in (
            ("gather", "bits"), ("gather", "floats"), ("reduce", "integers"), ("reduce", "floats"),
            ("allreduce", "integers"), ("allreduce", "floats"),
        )
        for n in parts
    }  # fmt: skip
    for curve in found.values():
        assert len(curve.received) == 2
        assert np.all(np.diff(curve.received) > 0)
        assert min(curve.seconds) > 0


def test_ranks_wait_for_works_of_the_first_one(comm: MPI.Comm) -> None:
    def some(n: int) -> calibrate.Works[int]:
        for _ in range(n):
            comm.Barrier() if n == 2 else None
            yield
        return comm.rank

    alone = some(3) if comm.rank == 0 else None
    found = calibrate._in_turn(comm, {(1, 1): alone, (1, 2): some(2), (2, 1): some(0) if comm.rank == 0 else None})
    assert found == {(1, 2): comm.rank} | ({(1, 1): 0, (2, 1): 0} if comm.rank == 0 else {})
