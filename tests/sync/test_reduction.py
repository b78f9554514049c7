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
    ("how", "mine", "of_all", "expected"),
    [
        ({}, (3, 2), (8, 5), (8, 5, 1.0)),
        ({}, (0, 2), (8, 5), (8, 5, 1.0)),
        ({"own_mean": True}, (3, 2), (8, 5), (3, 2, 1.0)),
        ({"own_mean": True}, (0, 2), (8, 5), (1, 2, 0.0)),
        ({"n_shares": 2}, (3, 2), (8, 5), (3, 2, 0.375)),
        ({"n_shares": 2}, (0, 2), (8, 5), (1, 2, 0.0)),
        ({"n_shares": 2}, (8, 0), (8, 0), (8, 1, 1.0)),
    ],
)
def test_what_a_sum_is_divided_by(how, mine, of_all, expected):
    """A replica without samples of its own divides by one, not by zero, and learns nothing: its chains say nothing."""
    assert Reduction(MPI.COMM_SELF, Traffic(), **how).means(mine, of_all) == expected


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
