"""Threads of each rank: chosen before NumPy is loaded, which is when OpenBLAS reads its environment.

NumPy and SciPy each bring an OpenBLAS with a pool of its own, and the idle pool of the one spins while the other
computes.  Products of the engine use SciPy's, so SciPy's gets the threads and NumPy's one.
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from modelpar.comm.binding import bind
from modelpar.comm.cores import VARIABLES, Placement, limit_loaded, mark_settled, placement
from modelpar.errors import SpecError, together

if TYPE_CHECKING:
    from mpi4py import MPI

__all__ = ["PATIENCE", "VARIABLES", "Placement", "limit_loaded", "placement", "prepare"]

# After a product OpenBLAS's threads spin for 2^26 cycles by default, and the kernels that mostly follow run at half
# speed beside them on two cores; with 2^16 cycles they sleep sooner, and products are as fast.
PATIENCE = "OPENBLAS_THREAD_TIMEOUT"


def prepare(
    comm: MPI.Comm, asked: int | None, binding: str = "none", *, clear_core_type: bool = False
) -> Placement:  # fmt: skip
    """Choose the threads of this rank, bind it (``comm.binding``), then load NumPy and SciPy's BLAS.  Collective.

    ``clear_core_type`` unsets OPENBLAS_CORETYPE: some hosts set it to an older processor, which halves the speed.
    Raises SpecError, on every rank, where ranks cannot be bound as was asked for.
    """
    chosen = _bound(comm, placement(comm, asked), binding)
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


def _bound(comm: MPI.Comm, chosen: Placement, how: str) -> Placement:
    """The placement with what this rank is bound to from now on, all of its threads to come included.  Collective."""
    asked = comm.allgather(how)
    if any(other != asked[0] for other in asked):
        raise SpecError(f"ranks bring different --bind: {', '.join(sorted(set(asked)))}; give all of them the same")
    if how == "none":
        return chosen
    from mpi4py import MPI

    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    with together(comm):
        chosen = replace(chosen, bound=bind(node, chosen, how))
    node.Free()
    return chosen


def _set_environment(threads: int) -> None:
    for name in VARIABLES:
        os.environ[name] = str(threads)
