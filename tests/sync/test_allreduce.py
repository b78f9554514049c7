"""The strategy that never lets replicas part."""

from __future__ import annotations

import threading

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.sync import AllreduceSync, Share, Work
from modelpar.weights.parameters import Parameters


class Replicas:
    def __init__(self, size, rank):
        self.size, self.rank = size, rank

    def Bcast(self, values, root=0):
        """All have the same."""

    def Iprobe(self):
        return False


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (3, 0), (3, 2)])
def test_a_replica_has_its_part_of_every_step(size, rank):
    sync = AllreduceSync(Replicas(size, rank), Traffic())
    sync.begin(Work({}, {}, {}, {}, lambda: None))
    assert list(sync.shares(4, 7, 11, 0.1)) == [Share(step, rank, size) for step in (4, 5, 6)]
    assert sync.steps_together(11) == 1
    assert sync.alike
    assert sync.in_step
    assert sync.salvage() is None


@pytest.mark.parametrize(("size", "overlap"), [(1, True), (2, False), (2, True)])
def test_a_thread_enters_mpi_only_where_sums_travel(size, overlap):
    before = threading.active_count()
    sync = AllreduceSync(Replicas(size, 0), Traffic(), overlap=overlap)
    sync.begin(Work({"rbm.0": Parameters((2, 2), 2, 2, np.float32)}, {}, {}, {}, lambda: None))
    started = threading.active_count() - before
    sync.end()
    assert started == (size > 1 and overlap and MPI.Query_thread() == MPI.THREAD_MULTIPLE)
    assert threading.active_count() == before
    sync.end()  # a second end does nothing
