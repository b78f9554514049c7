"""Names the rank that was killed, where the launcher does not: a small process beside the ranks of a node.

MPICH's ``mpiexec`` kills all ranks as soon as one is gone, within a millisecond or so, and then tells the process
number of any of them.  No rank gets a word in, so one process that is no rank waits for the first of them to end.  It
keeps silent where a rank has said that it will leave.  Other launchers name the rank themselves.  On several nodes
there is none: those without the lost rank would take the launcher's first victim for it.

This file is also what that process runs, so at its head it imports the standard library only.
"""

from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

MUTE_LAUNCHER = "hydra"  # of MPICH: its process on each node is the parent of the ranks
LEAVING = "leaving"  # a file that the first rank to leave makes


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
    if not all(node_comm.allgather(mute)):
        node_comm.Free()
        yield lambda: None
        return
    folder, sentinel = None, None
    if mine is not None:
        folder = tempfile.mkdtemp(prefix="modelpar-")
        words = [str(word) for pid_and_name in mine for word in pid_and_name]
        with suppress(OSError):  # where no more processes may be started, nobody is named
            sentinel = subprocess.Popen(
                [sys.executable, "-I", "-S", __file__, folder, *words],
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True,
            )  # fmt: skip
    folder = node_comm.bcast(folder)
    node_comm.Free()
    leaving = Path(folder) / LEAVING

    def leave() -> None:
        """This rank will end, and the launcher may then kill the others: that is no news."""
        with suppress(OSError):
            leaving.touch()

    try:
        yield leave
    finally:
        leave()
        if sentinel is not None:
            sentinel.kill()
            sentinel.wait()
            shutil.rmtree(folder, ignore_errors=True)


def _launcher() -> str:
    """The name of this process's parent; empty where it cannot be known."""
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def wait_for_the_first(folder: Path, names: dict[int, str]) -> None:
    """Print the name of the first process to end, unless one of them has left by itself."""
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
    if not (folder / LEAVING).exists():
        sys.stderr.write(
            f"modelpar: error: {watched[first]} was killed; modelpar train --resume goes on from the last checkpoint\n"
        )
        sys.stderr.flush()
    shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    wait_for_the_first(
        Path(sys.argv[1]), {int(pid): name for pid, name in zip(sys.argv[2::2], sys.argv[3::2], strict=True)}
    )
