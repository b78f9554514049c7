"""A check that a plan fits the memory that the nodes have left, before anything is allocated."""

from __future__ import annotations

from mpi4py import MPI

from modelpar.errors import OutOfMemoryError
from modelpar.machine.memory import available_bytes


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
