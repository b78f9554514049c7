"""Threads of each rank: chosen before NumPy is loaded, since OpenBLAS reads its environment only then.

NumPy and SciPy each bring an OpenBLAS with a pool of its own, and the idle pool of the one spins while the other
computes.  Products of the engine go through SciPy's, so that one gets the threads and NumPy's gets one.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpi4py import MPI

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# After a product OpenBLAS spins for 2^26 cycles unless told otherwise, and our kernels, which mostly come next,
# run at half speed beside them on two cores; after 2^16 cycles they sleep, which costs products nothing.
PATIENCE = "OPENBLAS_THREAD_TIMEOUT"
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")


@dataclass(frozen=True)
class Placement:
    """What one rank has of its node."""

    cores: int  # of the node, that its ranks may use
    own_cores: int  # that this rank is bound to, or all
    ranks: int  # on the node
    threads: int  # of this rank


def placement(comm: MPI.Comm, asked: int | None) -> Placement:
    """Threads of this rank: ``asked`` for, or the node's cores shared between its ranks.  Collective."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    mine = own_cores()
    together = set[int]().union(*node.allgather(mine))
    cores = max(1, min(len(together), quota() or len(together)))
    ranks = node.size
    node.Free()
    fair = max(1, min(cores // ranks, len(mine)))
    return Placement(cores, len(mine), ranks, asked or fair)


def prepare(comm: MPI.Comm, asked: int | None, *, clear_core_type: bool = False) -> Placement:
    """Choose the threads of this rank, then load NumPy and SciPy's BLAS with them.  Collective.

    ``clear_core_type`` takes OPENBLAS_CORETYPE away: some hosts set it to an older processor, which halves the speed.
    """
    place = placement(comm, asked)
    if clear_core_type:
        os.environ.pop("OPENBLAS_CORETYPE", None)
    _set_environment(1)
    os.environ.setdefault(PATIENCE, "16")
    import numpy  # noqa: F401 - its BLAS reads the environment now

    _set_environment(place.threads)
    from scipy.linalg import blas  # noqa: F401 - and SciPy's now

    limit_loaded(place.threads)
    from modelpar.kernels import threads

    threads.set_threads(place.threads)
    return place


def limit_loaded(threads: int) -> None:
    """``threads`` for the BLAS that SciPy uses, one for any other that is loaded.

    Does what the environment could not: where NumPy was loaded before, or where both share one library.
    """
    from threadpoolctl import ThreadpoolController

    libraries = [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
    for library in libraries:
        is_scipys = len(libraries) == 1 or "scipy" in Path(library.filepath).parent.name
        library.set_num_threads(threads if is_scipys else 1)


def own_cores() -> set[int]:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # pragma: no cover - not on Linux


def quota() -> int | None:
    """Whole processors that the container's time limit amounts to; None without a limit."""
    try:
        limit, period = _CPU_QUOTA.read_text().split()
        return None if limit == "max" else max(1, ceil(int(limit) / int(period)))
    except (OSError, ValueError):
        return None


def _set_environment(threads: int) -> None:
    for name in VARIABLES:
        os.environ[name] = str(threads)
