"""Threads of each rank: its fraction of the node's cores, chosen at the first grid where the user has not chosen.

The kernels have a pool of their own (``kernels.threads``), NumPy's and SciPy's BLAS one each.  The command line chooses
before NumPy is loaded (``cli.threads``); a script's first :class:`modelpar.Grid` does it here.  What the user has set
stays, and the kernels follow it: in the environment (NUMBA_NUM_THREADS, OMP_NUM_THREADS and the like, which
joblib sets in its workers), by ``numba.set_num_threads``, or by limits of threadpoolctl.

This module loads neither NumPy nor MPI before it is asked for threads.
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

from modelpar.comm.topology import cores_of
from modelpar.values import plain

if TYPE_CHECKING:
    from mpi4py import MPI

VARIABLES = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_OURS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", *VARIABLES)  # the kernels follow the first that is set
_LOCAL_RANKS = ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS")  # of mpirun, which is within a step of Slurm
_SLURMS = ("SLURM_STEP_TASKS_PER_NODE", "SLURM_NODEID", "SLURM_LOCALID", "SLURM_CPU_BIND_TYPE", "SLURM_CPU_BIND_LIST")
_CPU_QUOTA = Path("/sys/fs/cgroup/cpu.max")

_settled = False

MOST_THREADS = 2**31 - 1


@dataclass(frozen=True)
class Placement:
    """The cores and threads of one rank on its node."""

    cores: int  # of the node that its ranks may use; hyperthreads of one core count once
    own_cores: int  # that the launcher has bound this rank to, or all
    ranks: int  # on the node
    threads: int  # of this rank
    processors: int = 0  # of the node that its ranks may use, hyperthreads included
    bound: tuple[int, ...] = ()  # processors that --bind has bound this rank to


def set_threads(n: int) -> None:
    """Use ``n`` threads on this rank from now on, in the kernels and in the BLAS.  Not collective.

    Raises ValueError where n is less than 1 or more than libraries can count, TypeError where it is not an integer.
    """
    global _settled
    from modelpar.kernels import threads

    n = operator.index(n)
    if n > MOST_THREADS:
        raise ValueError(f"{plain.shown(n)} threads were asked for, but at most {MOST_THREADS} are possible")
    threads.set_threads(n)
    for library in _blas():
        library.set_num_threads(n)
    _settled = True


def settle(node: MPI.Comm) -> int:
    """Choose the threads of this rank, once in a process; return its fraction of the cores.  Collective over ``node``.

    node    the ranks of the grid on this node; the launcher's variables tell the number of others
    """
    global _settled
    fair = placement_on(node).threads
    if not _settled:
        from modelpar.kernels import threads

        _settled = True
        given = users_choice()
        threads.set_threads(given or fair)
        if given is None:
            for library in _blas():
                if library.num_threads > fair:
                    library.set_num_threads(fair)
    return fair


def is_settled() -> bool:
    """Whether the threads of this process were chosen: by the command line, ``set_threads`` or a grid."""
    return _settled


def mark_settled() -> None:
    """Record that the threads of this process are chosen: no grid chooses them again."""
    global _settled
    _settled = True


def users_choice() -> int | None:
    """Threads that the user has chosen, by the environment or in the process; None where nothing was chosen."""
    named = threads_named(os.environ)
    if named is not None:
        return named
    parallel: Any = sys.modules.get("numba.np.ufunc.parallel")
    if parallel is not None and parallel._is_initialized and parallel.get_num_threads() != _numba_default():
        return int(parallel.get_num_threads())
    # without a limit a pool has a thread for each core, MKL's one for each physical core
    fewest = min((int(library.num_threads) for library in _blas()), default=0)
    return fewest if 0 < fewest < min(len(own_cores()), 64) else None


def threads_named(environment: Mapping[str, str]) -> int | None:
    """Threads that environment variables name: an integer, or the first of OpenMP's list of levels."""
    for name in _OURS:
        first = environment.get(name, "").split(",")[0].strip()
        if first.isdecimal() and int(first) > 0:
            return int(first)
    return None


def _numba_default() -> int:
    from numba import config

    return int(config.NUMBA_NUM_THREADS)


@contextmanager
def limited(n_jobs: int | None, n_cores: int) -> Iterator[None]:
    """A block in which this thread's kernels, and the BLAS, have as many threads as scikit-learn's ``n_jobs`` says.

    None: as many as the process has; -1: this rank's ``n_cores`` cores, -2: all of these but one, and so on

    Not collective.  Raises ValueError for 0 and for what is not an integer.
    """
    n = jobs(n_jobs, min(n_cores, threads_named(os.environ) or n_cores))
    if n is None:
        yield
        return
    from threadpoolctl import threadpool_limits

    from modelpar.kernels import threads

    with threadpool_limits(n, user_api="blas"), threads.limited(n):
        yield


def jobs(n_jobs: int | None, n_cores: int) -> int | None:
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
    return n if n > 0 else max(1, n_cores + 1 + n)


# -- the node ----------------------------------------------------------------------------------------------------------


def placement(comm: MPI.Comm, asked: int | None) -> Placement:
    """The cores of this rank, and its threads: ``asked``, or the node's cores divided by its ranks.  Collective."""
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    result = placement_on(node, asked)
    node.Free()
    return result


def placement_on(node: MPI.Comm, asked: int | None = None) -> Placement:
    """As :func:`placement`, for the ranks of one node.  Collective over them."""
    mine = own_cores()
    together = set[int]().union(*node.allgather(mine))
    there, own = len(cores_of(together)), len(cores_of(mine))
    cores = max(1, min(there, quota() or there))
    ranks = max(node.size, ranks_beside(os.environ, node.size))
    fair = max(1, min(cores // ranks, own // max(1, tasks_beside(os.environ))))  # of a part of a step's tasks too
    return Placement(cores, own, ranks, asked or fair, len(together))


def ranks_beside(environment: Mapping[str, str], known: int) -> int:
    """Ranks of this job on this node, as the launcher's variables say; ``known`` without them.

    Without these variables four grids of one rank, started by ``mpirun -n 4``, would each take all cores.
    """
    for name in _LOCAL_RANKS:
        match = re.match(r"\d+", environment.get(name, ""))
        if match and int(match[0]) > 0:
            return int(match[0])
    return tasks_beside(environment) or known


def tasks_beside(environment: Mapping[str, str]) -> int:
    """Tasks of this step of Slurm that share processors with this one, itself among them; 0 outside of a step.

    srun counts tasks node by node, as ``4(x2),3``, and lists the processors of each of a node's tasks as masks, from
    the first mask again where tasks are more (srun(1), OUTPUT ENVIRONMENT VARIABLES).  Without masks all tasks share.
    """
    per_node, *numbers, kind, masks = (environment.get(name, "") for name in _SLURMS)
    if not all(number.isdecimal() for number in numbers):
        return 0
    node, local = map(int, numbers)
    n_tasks = 0
    for count, n_nodes in re.findall(r"(\d+)(?:\(x(\d+)\))?", per_node):
        if node < int(n_nodes or 1):
            n_tasks = int(count)
            break
        node -= int(n_nodes or 1)
    if not kind.startswith("mask_cpu") or not re.fullmatch(r"0x[0-9A-Fa-f]+(,0x[0-9A-Fa-f]+)*", masks):
        return n_tasks
    processors = [int(mask, 16) for mask in masks.split(",")]
    own = processors[local % len(processors)]
    return sum(processors[task % len(processors)] & own != 0 for task in range(n_tasks))


def own_cores() -> set[int]:
    """Processors that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))  # pragma: no cover - not on Linux


def quota() -> int | None:
    """The number of processors of the container's time limit, rounded up; None without a limit."""
    try:
        limit, period = _CPU_QUOTA.read_text().split()
        return None if limit == "max" else max(1, ceil(int(limit) / int(period)))
    except (OSError, ValueError):
        return None


def limit_loaded(threads: int) -> None:
    """``threads`` for the BLAS that SciPy uses, one for any other that is loaded.

    For what the environment cannot set: where NumPy is loaded already, or where both use one library.
    """
    libraries = _blas()
    for library in libraries:
        is_scipys = len(libraries) == 1 or "scipy" in Path(library.filepath).parent.name
        library.set_num_threads(threads if is_scipys else 1)


def _blas() -> list[Any]:
    """The BLAS libraries of NumPy and SciPy, and others that are loaded, as threadpoolctl's controllers."""
    from scipy.linalg import blas  # noqa: F401 - one that is loaded later would have as many threads as there are cores
    from threadpoolctl import ThreadpoolController

    return [library for library in ThreadpoolController().lib_controllers if library.user_api == "blas"]
