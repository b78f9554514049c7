"""Ranks that stand still, and ranks that move: who ends the job."""

from __future__ import annotations

import time

import pytest

from modelpar.comm.status import Status
from modelpar.comm.watchdog import ANSWER, ASK, Watchdog, names_of_ranks

pytestmark = pytest.mark.ranks


@pytest.mark.parametrize("timeout", [0.4, 1.0])
def test_a_replica_that_waits_for_one_that_moves_is_no_stall(comm, agree, timeout):
    """One rank moves, the others stand still for several timeouts: every question is answered."""
    ended, status = [], Status()
    with Watchdog(comm, status, timeout, names=names_of_ranks(comm, "x"), end=ended.append):
        until = time.monotonic() + 4 * timeout
        while time.monotonic() < until:
            status.beat += comm.rank == comm.size - 1
            time.sleep(0.01)
        status.beat += 1
        comm.barrier()
    agree(not ended, "a job that moves was ended")


def test_one_rank_after_another(comm, agree):
    """Watchdogs can be made again, and the messages of one are not heard by the next."""
    for _ in range(3):
        with Watchdog(comm, Status(), 30.0, names=names_of_ranks(comm, "x")) as dog:
            agree(len(dog.names) == comm.size)
            agree(dog.names[comm.rank].startswith(f"rank {comm.rank} (x, process "))


def test_all_stand_still(comm, agree, capfd):
    """The lowest rank reports, with a line for each rank."""
    ended, status = [], Status()
    with Watchdog(comm, status, 0.4, names=names_of_ranks(comm, "x"), end=ended.append):
        if comm.rank == 0:
            while not ended:
                time.sleep(0.01)
            status.beat += 1
        comm.barrier()
    printed = capfd.readouterr().err
    agree(
        comm.rank > 0 or (set(ended) == {3} and all(f"rank {rank} (x" in printed for rank in range(comm.size))), printed
    )
    agree("no answer" not in printed, printed)


def test_messages_that_nobody_waits_for_are_received_before_the_communicator_is_freed(comm, agree):
    """The next communicator would take them for its own."""
    with Watchdog(comm, Status(), 30.0, names=names_of_ranks(comm, "x")) as dog:
        for rank in range(comm.size):
            if rank != comm.rank:
                for tag in (ASK, ANSWER)[: 1 + comm.rank % 2]:
                    dog._send("late", rank, tag)
    agree(comm.alltoall(dog._n_sent) == dog._n_received)
    agree(all(request.Test() for request in dog._sent))
