"""Names the rank that was killed, where the launcher does not: a small process beside the ranks of a node.

MPICH's ``mpiexec`` kills all ranks as soon as one is gone, within a millisecond or so, and then tells the process
number of any of them.  No rank gets a word in, so one process that is no rank waits for the first of them to end.  A
rank that will leave by itself ends it.  Other launchers name the rank themselves.  On several nodes
there is none: those without the lost rank would take the launcher's first victim for it.

This file is also what that process runs, so at its head it imports the standard library only.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

MUTE_LAUNCHER = "hydra"  # of MPICH: its process on each node is the parent of the ranks
PATIENCE = 1.0  # seconds in which a killed process is gone


@contextmanager
def named_when_killed(comm: MPI.Comm, names: Sequence[str]) -> Iterator[Callable[[], None]]:
    """A killed rank of ``comm`` is told by one line while the block runs.  Beginning it is collective.

    Gives what a rank is to call before it ends the others.

    names   of the ranks of ``comm``
    """
    from mpi4py import MPI

    node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED)
    mute = hasattr(os, "pidfd_open") and _launcher().startswith(MUTE_LAUNCHER) and node_comm.size == comm.size
    mine = node_comm.gather((os.getpid(), names[comm.rank]))
    sentinel = None
    if all(node_comm.allgather(mute)) and mine is not None:
        words = [str(word) for pid_and_name in mine for word in pid_and_name]
        with suppress(OSError):  # where no more processes may be started, nobody is named
            sentinel = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
    pid = node_comm.bcast(sentinel.pid if sentinel is not None else None)
    node_comm.Free()

    def leave() -> None:
        """This rank will end, and the launcher may then kill the others: that is no news."""
        if pid is not None:
            end(pid)

    try:
        yield leave
    finally:
        leave()
        if sentinel is not None:
            sentinel.wait()


def end(pid: int) -> None:
    """Kill a process, and wait until it is gone and its files are closed.

    For as long as one of them is the launcher's, the launcher does not know the ranks of this node as ended, and an
    abort's exit status gives way to those of the ranks that it kills meanwhile.
    """
    with suppress(OSError):  # it is gone
        descriptor = os.pidfd_open(pid)
        try:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            select.select([descriptor], [], [], PATIENCE)
        finally:
            os.close(descriptor)


def _launcher() -> str:
    """The name of this process's parent; empty where it cannot be known."""
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def wait_for_the_first(names: dict[int, str]) -> None:
    """Print the name of the first process to end."""
    ended = select.epoll()  # hands out what has ended in the order in which it did
    watched = {}
    for pid, name in names.items():
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            watched[-1] = name
            break
        watched[descriptor] = name
        ended.register(descriptor, select.EPOLLIN)
    first = -1 if -1 in watched else ended.poll(maxevents=1)[0][0]
    sys.stderr.write(
        f"modelpar: error: {watched[first]} was killed; modelpar train --resume goes on from the last checkpoint\n"
    )
    sys.stderr.flush()


if __name__ == "__main__":
    wait_for_the_first({int(pid): name for pid, name in zip(sys.argv[1::2], sys.argv[2::2], strict=True)})
