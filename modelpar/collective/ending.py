"""How a job ends on an error: all ranks together where all come to it, by an abort where one is alone with it.

A rank that ends alone leaves the others waiting in a collective for ever.  Whether an error is on all ranks is known
where they have agreed on it (``errors.raise_together``); else the ranks find out by waiting for each other: what all
detect from the same values brings them here almost at once.
"""

from __future__ import annotations

import os
import time
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

from modelpar.errors import ALONE, ModelparError, n_ranks_that_raise, raised_by

if TYPE_CHECKING:
    from mpi4py import MPI

T = TypeVar("T")

PATIENCE = 2.0  # seconds in which all ranks come to an error that they have not agreed on
AGREED_PATIENCE = 20.0  # to one that they have: they are on the way here, but a machine may be busy
CLAIM = 0.25  # seconds in which a claim to report reaches ranks that claim the same
POLL = 0.005
PRINTING = 0.5  # seconds until what was printed has reached the launcher
LAUNCHER = 2.0  # seconds in which a launcher ends a rank that has asked for the end of the job
CLAIM_TAG = 29


def all_raise(comm: MPI.Comm, error: BaseException) -> bool:
    """Whether every rank of ``comm`` raises, as this one does, so that what was made together can be freed together.

    Collective where all raise, and of no consequence for the others where they do not.  What was found is noted on the
    error, so that only the first of several nested blocks waits.
    """
    known = n_ranks_that_raise(error)
    if known == ALONE or known >= comm.size:
        return known != ALONE
    found = all_come(comm, PATIENCE)
    raised_by(error, comm.size if found else ALONE)
    return found


def all_come(comm: MPI.Comm, patience: float) -> bool:
    """Whether all ranks come here within ``patience`` seconds, counted from the moment that this one does."""
    if comm.size == 1:
        return True
    arrived, deadline = comm.Ibarrier(), time.monotonic() + patience
    while not arrived.Test():
        if time.monotonic() > deadline:
            return False
        time.sleep(POLL)
    return True


def is_reporter(comm: MPI.Comm) -> bool:
    """Whether this rank is the one to say why it ends the job; of several that would, one is.  Not collective."""
    if comm.size == 1:
        return True
    if _has_claim(comm, range(comm.size), CLAIM / 5):  # of a rank that came earlier
        return False
    nothing = bytearray()
    requests = [comm.Isend(nothing, rank, CLAIM_TAG) for rank in range(comm.size) if rank != comm.rank]
    lower = _has_claim(comm, range(comm.rank), CLAIM)
    for request in requests:
        request.Test()
    return not lower


def _has_claim(comm: MPI.Comm, ranks: range, seconds: float) -> bool:
    """Whether a claim of one of these ranks arrives within so many seconds: MPI may need several calls to see it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if any(comm.Iprobe(source=rank, tag=CLAIM_TAG) for rank in ranks):
            return True
        time.sleep(POLL)
    return False


@contextmanager
def closed(records: Iterator[T], comm: MPI.Comm) -> Iterator[Iterator[T]]:
    """A generator whose end is collective, closed when the block is left; not after an error of this rank alone."""
    try:
        yield records
    except ModelparError as error:
        if all_raise(comm, error):
            _close(records)
        raise
    _close(records)


def _close(records: Iterator[Any]) -> None:
    if isinstance(records, Generator):
        records.close()


def end_job(comm: MPI.Comm, status: int) -> NoReturn:
    """End all ranks with this exit status, also those that wait in MPI."""
    abort(comm, status)
    os._exit(status)  # not reached where MPI_Abort ends the process, as it must


def abort(comm: MPI.Comm, status: int) -> None:
    """End the job with this exit status, for which the launcher must receive the abort before a rank is gone.

    MPICH's launcher takes the status of the first rank that it finds dead, and a rank that has called MPI_Abort dies
    before the launcher has received it.  So the abort is sent alone, in the one line that MPI_Abort sends (PMI
    version 1, over the socket whose number is in PMI_FD), and this rank stays until it is killed.  Other launchers
    get MPI_Abort.
    """
    from mpi4py import MPI

    socket = os.environ.get("PMI_FD", "")
    time.sleep(PRINTING)
    if MPI.get_vendor()[0] == "MPICH" and socket.isdigit():
        with suppress(OSError):
            os.write(int(socket), f"cmd=abort exitcode={status}\n".encode())
            time.sleep(LAUNCHER)
    comm.Abort(status)
