"""Threads of each rank: its fair share of the node's cores, chosen at the first grid unless the user has chosen.

The kernels have a pool of their own (``kernels.threads``), NumPy's and SciPy's BLAS one each.  The command line chooses
before NumPy is loaded (``cli.threads``); a script's first :class:`modelpar.Grid` does it here.  What the user has set
is left as it is, and the kernels follow it: in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS and the like, which
joblib sets in its workers), by ``numba.set_num_threads``, or by limits of threadpoolctl.

This module loads neither NumPy nor MPI.
"""

from __future__ import annotations

import operator
import os
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mpi4py import MPI

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_OURS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", *VARIABLES)  # that the kernels follow, the first that is set
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS", "SLURM_STEP_TASKS_PER_NODE")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_settled = False

MOST_THREADS = 2**31 - 1


@dataclass(frozen=True)
class Placement:
    """What one rank has of its node."""

    cores: int  # of the node, that its ranks may use
    own_cores: int  # that this rank is bound to, or all
    ranks: int  # on the node
    threads: int  # of this rank


def set_threads(n: int) -> None:
    """Use ``n`` threads on this rank from now on, in the kernels and in the BLAS.  Not collective.

    Raises ValueError where n is less than 1 or beyond what libraries count, TypeError where it is not an integer.
    """
    global _settled
    from modelpar.kernels import threads

    n = operator.index(n)
    if n > MOST_THREADS:
        raise ValueError(f"{n} threads were asked for, but at most {MOST_THREADS} are possible")
    threads.set_threads(n)
    for library in _blas():
        library.set_num_threads(n)
    _settled = True


def settle(node: MPI.Comm) -> int:
    """Choose the threads of this rank, once in a process; its fair share of the cores.  Collective over ``node``.

    node    the ranks of the grid on this node; of other ranks the launcher tells
    """
    global _settled
    share = placement_on(node).threads
    if not _settled:
        from modelpar.kernels import threads

        _settled = True
        given = users_choice()
        threads.set_threads(given or share)
        if given is None:
            for library in _blas():
                if library.num_threads > share:
                    library.set_num_threads(share)
    return share


def is_settled() -> bool:
    """Whether the threads of this process were chosen: by the command line, ``set_threads`` or a grid."""
    return _settled


def mark_settled() -> None:
    """The threads of this process have been chosen: no grid does it any more."""
    global _settled
    _settled = True


def users_choice() -> int | None:
    """Threads that the user has chosen, by the environment or in the process; None where nothing was."""
    named = threads_named(os.environ)
    if named is not None:
        return named
    parallel: Any = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is not None and parallel._is_initialized and parallel.get_num_threads() != _numba_default():
        return int(parallel.get_num_threads())
    # a pool has a thread for each core unless it is limited; MKL's one for each physical core
    fewest = min((int(library.num_threads) for library in _blas()), default=0)
    return fewest if 0 < fewest < min(len(own_cores()), 64) else None


def threads_named(environment: Mapping[str, str]) -> int | None:
    """Threads that environment variables name: a whole number, or the first of OpenMP's list of levels."""
    for name in _OURS:
        first = environment.get(name, "").split(",")[0].strip()
        if first.isdigit() and int(first) > 0:
            return int(first)
    return None


def _numba_default() -> int:
    from numba import config

    return int(config.NUMBA_NUM_THREADS)


@contextmanager
def limited(n_jobs: int | None, share: int) -> Iterator[None]:
    """A block in which this thread's kernels, and the BLAS, have as many threads as scikit-learn's ``n_jobs`` says.

    None: as many as the process has; -1: this rank's ``share`` of the cores, -2: all of these but one, and so on

    Not collective.  Raises ValueError for 0 and for what is no whole number.
    """
    n = jobs(n_jobs, min(share, threads_named(os.environ) or share))
    if n is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    from modelpar.kernels import threads

    with threadpool_limits(n, user_api="blas"), threads.limited(n):
        yield


def jobs(n_jobs: int | None, share: int) -> int | None:
    """Threads of ``n_jobs``, as in :func:`limited`."""
    if n_jobs is None:
        return None
    try:
        n = operator.index(n_jobs)
    except TypeError:
        n = 0
    if n == 0 or isinstance(n_jobs, bool):
        raise ValueError(
            f"n_jobs is {n_jobs!r}, but must be None, a positive integer, or -1 for all cores, -2 for all but one"
        )
    return n if n > 0 else max(1, share + 1 + n)


# -- the node ----------------------------------------------------------------------------------------------------------


def placement(comm: MPI.Comm, asked: int | None) -> Placement:
    """Threads of this rank: ``asked`` for, or the node's cores shared between its ranks.  Collective."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    found = placement_on(node, asked)
    node.Free()
    return found


def placement_on(node: MPI.Comm, asked: int | None = None) -> Placement:
    """As :func:`placement`, for the ranks of one node.  Collective over them."""
    mine = own_cores()
    together = set[int]().union(*node.allgather(mine))
    cores = max(1, min(len(together), quota() or len(together)))
    ranks = max(node.size, ranks_beside(os.environ, node.size))
    fair = max(1, min(cores // ranks, len(mine)))
    return Placement(cores, len(mine), ranks, asked or fair)


def ranks_beside(environment: Mapping[str, str], known: int) -> int:
    """Ranks of this job on this node, as far as the launcher tells; ``known`` where it does not.

    A grid of one rank knows of no other, but those of ``mpirun -n 4`` would each take all cores.
    """
    for name in _LOCAL_RANKS:
        found = re.match(r"\d+", environment.get(name, ""))
        if found and int(found[0]) > 0:
            return int(found[0])
    return known


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


def limit_loaded(threads: int) -> None:
    """``threads`` for the BLAS that SciPy uses, one for any other that is loaded.

    Does what the environment could not: where NumPy was loaded before, or where both share one library.
    """
    libraries = _blas()
    for library in libraries:
        is_scipys = len(libraries) == 1 or "scipy" in Path(library.filepath).parent.name
        library.set_num_threads(threads if is_scipys else 1)


def _blas() -> list[Any]:
    """The BLAS libraries that are loaded, as threadpoolctl's controllers."""
    from threadpoolctl import ThreadpoolController

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
