"""What a step sums over replicas, and by how many samples the sum is divided."""

from __future__ import annotations

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm.exchange import Traffic
from modelpar.sync import Reduction


class Replicas:
    """A communicator of replicas that all hold the same, and a log of what they do."""

    def __init__(self, size, rank=0):
        self.size, self.rank, self.log = size, rank, []

    def Allreduce(self, _in_place, values):
        self.log.append("sum")
        values *= self.size

    def Iallreduce(self, _in_place, values):
        self.log.append("begin")
        return Request(self, values)


class Request:
    def __init__(self, comm, values):
        self.comm, self.values = comm, values

    def Wait(self):
        self.comm.log.append("wait")
        self.values *= self.comm.size


def reduced(traffic):
    """Bytes that sums over replicas have moved."""
    return sum(n for (axis, verb, _), n in traffic.counts.items() if (axis, verb) == ("replica", "allreduce"))


@pytest.mark.parametrize(
    ("own_mean", "mine", "of_all", "expected"), [(False, 3, 8, 8), (True, 3, 8, 3), (True, 0, 8, 1), (False, 0, 8, 8)]
)
def test_what_a_sum_is_divided_by(own_mean, mine, of_all, expected):
    """A replica without samples of its own divides by one, and not by zero."""
    assert Reduction(MPI.COMM_SELF, Traffic(), own_mean=own_mean).n_samples(mine, of_all) == expected


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_sum_now(size):
    comm, traffic, values = Replicas(size), Traffic(), np.arange(6.0)
    Reduction(comm, traffic).sum(values)
    assert np.array_equal(values, size * np.arange(6.0))
    assert reduced(traffic) == 2 * (size - 1) * values.nbytes // size


@pytest.mark.parametrize(
    ("size", "overlap", "log"),
    [(3, True, ["begin", "other work", "wait"]), (3, False, ["other work", "sum"]), (1, True, ["other work", "sum"])],
)
def test_a_sum_travels_only_where_there_is_somebody_to_travel_to(size, overlap, log):
    comm, traffic, values = Replicas(size), Traffic(), np.ones(4, np.float32)
    reduction = Reduction(comm, traffic, overlap=overlap)
    pending = reduction.begin(values)
    comm.log.append("other work")
    pending.wait()
    assert comm.log == log
    assert (values == size).all()
    assert reduced(traffic) == 2 * (size - 1) * values.nbytes // size


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_one_replica_puts_in_what_all_have_alike(rank):
    assert Reduction(Replicas(3, rank), Traffic()).is_first == (rank == 0)
    assert Reduction(MPI.COMM_SELF, Traffic()).is_first
