"""The memory that this node has left, and a check that a plan fits it before anything is allocated."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import psutil
from mpi4py import MPI

from modelpar.errors import OutOfMemoryError

UNKNOWN = 1 << 62
_CGROUP = Path("/sys/fs/cgroup")
_SHARED = "/dev/shm"


def available_bytes() -> int:
    """Memory that this process may still take: the free memory of the node, or of its container if that is less.

    Where the system tells neither, as in a container without ``/proc``, as much as there can be.
    """
    return min([UNKNOWN, *_left_by_node(), *_left_by_containers()])


def _left_by_node() -> Iterator[int]:
    with suppress(Exception):  # psutil raises whatever a missing or empty file of the system leads it to
        yield int(psutil.virtual_memory().available)


def shared_memory_left() -> int:
    """Bytes that this node has left for memory that processes share: 64 MiB in many containers."""
    try:
        status = os.statvfs(_SHARED)
    except OSError:  # there is no such folder, and MPI has memory from elsewhere
        return UNKNOWN
    return status.f_bavail * status.f_frsize


def _left_by_containers() -> Iterator[int]:
    """Limit less use of each control group that has a limit, versions 2 and 1; cached files do not count as used."""
    for folder, limit, used, cached in (
        (_CGROUP, "memory.max", "memory.current", "inactive_file"),
        (_CGROUP / "memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
    ):
        try:
            most, taken = (folder / limit).read_text().strip(), int((folder / used).read_text())
            statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
            if most != "max":
                yield max(0, int(most) - taken + int(statistics.get(cached, 0)))
        except (OSError, ValueError):
            continue  # there is no such group


def check_fits(needed: int, what: str, comm: MPI.Comm, node_comm: MPI.Comm) -> None:
    """Raise OutOfMemoryError on all ranks of ``comm`` if the ranks of any node need more together than it has left.

    needed   bytes that this rank is about to take for ``what``.   Collective over ``comm`` and ``node_comm``.
    """
    on_node = node_comm.allreduce(needed)
    free = node_comm.bcast(available_bytes())
    worst = max(comm.allgather((on_node - free, on_node, free, node_comm.size)))
    excess, on_node, free, n_ranks = worst
    if excess > 0:
        raise OutOfMemoryError(
            f"{what} needs {on_node / 2**30:.1f} GiB on a node ({n_ranks} ranks), but only {free / 2**30:.1f} GiB are "
            "free; use more model shards on more nodes, fewer units, or a smaller --batch-size"
        )
