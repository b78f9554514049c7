"""Threads of each rank: chosen before NumPy is loaded, which is when OpenBLAS reads its environment.

NumPy and SciPy each bring an OpenBLAS with a pool of its own, and the idle pool of the one spins while the other
computes.  Products of the engine use SciPy's, so SciPy's gets the threads and NumPy's one.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from modelpar.comm.cores import VARIABLES, Placement, limit_loaded, mark_settled, placement

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["PATIENCE", "VARIABLES", "Placement", "limit_loaded", "placement", "prepare"]

# After a product OpenBLAS's threads spin for 2^26 cycles by default, and the kernels that mostly follow run at half
# speed beside them on two cores; with 2^16 cycles they sleep sooner, and products are as fast.
PATIENCE = "OPENBLAS_THREAD_TIMEOUT"


def prepare(comm: MPI.Comm, asked: int | None, *, clear_core_type: bool = False) -> Placement:
    """Choose the threads of this rank, then load NumPy and SciPy's BLAS with them.  Collective.

    ``clear_core_type`` unsets OPENBLAS_CORETYPE: some hosts set it to an older processor, which halves the speed.
    """
    chosen = placement(comm, asked)
    if clear_core_type:
        os.environ.pop("OPENBLAS_CORETYPE", None)
    _set_environment(1)
    os.environ.setdefault(PATIENCE, "16")
    import numpy  # noqa: F401 - its BLAS reads the environment now

    _set_environment(chosen.threads)
    from scipy.linalg import blas  # noqa: F401 - and SciPy's now

    limit_loaded(chosen.threads)
    from modelpar.kernels import threads

    threads.set_threads(chosen.threads)
    mark_settled()
    return chosen


def _set_environment(threads: int) -> None:
    for name in VARIABLES:
        os.environ[name] = str(threads)
