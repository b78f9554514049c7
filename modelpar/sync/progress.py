"""Entering MPI now and then while a rank computes, so that requests from other nodes do not wait for its idle moments.

MPI libraries serve one-sided requests that come over a network inside of MPI calls only.  Where a rank hosts a part of
the parameters and computes as well, a thread enters MPI for it: portable, where options such as MPICH's
``MPIR_CVAR_ASYNC_PROGRESS`` are one library's own.  Our kernels run without Python's lock, so the thread gets its turn.
"""

from __future__ import annotations

import threading
import weakref

from mpi4py import MPI

NAME = "modelpar-progress"  # of the thread
INTERVAL = 0.0001  # seconds between two probes; one takes some microseconds, and a large update needs many


class Progress:
    """A thread that enters MPI every ``INTERVAL`` seconds until ``stop``, or until nobody refers to this object.

    Does nothing where MPI was started without support for threads: such a host then serves requests when it next
    enters MPI by itself.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        if MPI.Query_thread() == MPI.THREAD_MULTIPLE:
            # the thread refers to the communicator, but not to this object
            self._thread = threading.Thread(target=_enter, args=(comm, self._stopped), name=NAME, daemon=True)
            self._thread.start()
            weakref.finalize(self, self._stopped.set)

    def stop(self) -> None:
        """End the thread; a second call does nothing."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None


def _enter(comm: MPI.Comm, stopped: threading.Event) -> None:
    while not stopped.wait(INTERVAL):
        comm.Iprobe()


def spans_nodes(comm: MPI.Comm) -> bool:
    """Whether the ranks of ``comm`` are on several nodes.  Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    size = node.size
    node.Free()
    return bool(comm.allreduce(size, MPI.MIN) < comm.size)
