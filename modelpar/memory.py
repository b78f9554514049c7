"""How much memory this node has left, and whether a plan fits into it before anything is allocated."""

from __future__ import annotations

from pathlib import Path

import psutil
from mpi4py import MPI

from modelpar.errors import OutOfMemoryError

_CGROUP = Path("/sys/fs/cgroup")


def available_bytes() -> int:
    """Memory that this process may still take: what the node has free, or what its container leaves, if less."""
    free = int(psutil.virtual_memory().available)
    try:
        limit, used = (_CGROUP / "memory.max").read_text().strip(), (_CGROUP / "memory.current").read_text()
    except OSError:
        return free
    return free if limit == "max" else min(free, max(0, int(limit) - int(used)))


def check_fits(needed: int, what: str, comm: MPI.Comm, node_comm: MPI.Comm) -> None:
    """Raise OutOfMemoryError on all ranks of ``comm`` if on any node its ranks together need more than it has left.

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
