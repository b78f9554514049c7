"""The thread that enters MPI."""

from __future__ import annotations

import threading

import pytest
from mpi4py import MPI

from modelpar.sync.progress import Progress, spans_nodes


class Probed:
    def __init__(self):
        self.times, self.often = 0, threading.Event()

    def Iprobe(self):
        self.times += 1
        if self.times >= 3:
            self.often.set()


def test_it_enters_until_it_is_stopped():
    if MPI.Query_thread() != MPI.THREAD_MULTIPLE:
        pytest.skip("this MPI was started without threads")
    comm, before = Probed(), threading.active_count()
    progress = Progress(comm)
    assert comm.often.wait(30)
    progress.stop()
    assert threading.active_count() == before
    times = comm.times
    progress.stop()  # a second stop does nothing
    assert comm.times == times


def test_no_thread_where_mpi_does_not_let_it(monkeypatch):
    monkeypatch.setattr(MPI, "Query_thread", lambda: MPI.THREAD_FUNNELED)
    before = threading.active_count()
    progress = Progress(Probed())
    assert threading.active_count() == before
    progress.stop()


def test_one_rank_is_on_one_node():
    assert not spans_nodes(MPI.COMM_SELF)
