"""What a launcher has told this process, and whether MPI has understood it: ranks that are alone by mistake.

A launcher starts processes and tells each, in its environment, its number and how many there are.  MPI reads that only
where it speaks the launcher's protocol: MPICH under the ``mpirun`` of Open MPI, or any MPI under an ``srun`` of another
``--mpi=``, takes each process for a job of one rank, and N of them would do the same work beside each other.

This module loads neither NumPy nor MPI.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from modelpar.errors import warn

if TYPE_CHECKING:
    from mpi4py import MPI

# (variable of the number of processes, of this one's number), of the innermost launcher first: mpirun inside of a job
# of Slurm, whose daemons srun has started.  The tasks that a job of Slurm has asked for are no such number: its batch
# script, which is one process, knows it too (srun(1) and sbatch(1), OUTPUT ENVIRONMENT VARIABLES).
COUNTED = (
    ("OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_RANK"),  # mpirun(1) of Open MPI
    ("PMI_SIZE", "PMI_RANK"),  # PMI-1 and PMI-2: Hydra, srun --mpi=pmi2, Flux, PALS
    ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID"),  # srun, whatever its --mpi=
)
UNCOUNTED = "PMIX_RANK"  # PMIx: no variable has the number of processes
PMI_SERVERS = ("PMI_FD", "PMI_PORT")  # by which PMI-1 and PMI-2 are spoken
_VERSION = "import mpi4py; mpi4py.rc.initialize = False; from mpi4py import MPI; print(MPI.Get_library_version())"


class Mistake(NamedTuple):
    """One line about processes that do not know of each other, and whether this is the one that prints it."""

    message: str
    is_reporter: bool


@dataclass(frozen=True)
class Launch:
    """This process among those that a launcher has started."""

    variable: str  # that tells the number of processes, or, of PMIx, only that there are several
    size: int | None  # None where it is not told
    rank: int

    @property
    def has_others(self) -> bool:
        return self.rank > 0 or (self.size is not None and self.size > 1)

    def alone(self, library: str) -> Mistake:
        """Of a process that has others beside it, but is the only rank of its MPI, named by ``library``."""
        n, told = ("several", self.variable) if self.size is None else (self.size, f"{self.variable}={self.size}")
        return Mistake(
            f"{n} processes were started ({told}), but each is the only rank of its MPI, {library}: use the mpirun of "
            f"this MPI, or another of srun --mpi=list; to run alone, unset {self.variable}",
            # where the number is not told, the first process does not know of the others
            self.rank == (1 if self.size is None else 0),
        )


def launch(environment: Mapping[str, str] | None = None) -> Launch | None:
    """What the launcher has told in ``environment``, by default this process's; None without a launcher."""
    environment = os.environ if environment is None else environment
    for size, rank in COUNTED:
        if environment.get(size, "").isdigit():
            return Launch(size, int(environment[size]), _number(environment.get(rank)))
    if UNCOUNTED in environment:
        return Launch(UNCOUNTED, None, _number(environment[UNCOUNTED]))
    return None


def _number(text: str | None) -> int:
    return int(text) if text is not None and text.isdigit() else 0


def library_name(version: str) -> str:
    """``MPICH 5.0.2`` or ``Open MPI v5.0.11``, of what MPI says about itself."""
    lines = version.strip(" \0\n").splitlines() or [""]
    return " ".join(lines[0].partition(",")[0].replace("Version:", "").split())


def alone_by_mistake(world: MPI.Comm) -> Mistake | None:
    """Where the launcher has started others beside the only rank of ``world``, which is COMM_WORLD.  Not collective."""
    told = launch()
    if world.size > 1 or told is None or not told.has_others:
        return None
    from mpi4py import MPI

    return told.alone(library_name(MPI.Get_library_version()))


def warn_where_alone(comm: MPI.Comm) -> None:
    """Warn in a program whose ``comm`` has one rank although its launcher has started several.  Not collective."""
    if comm.size > 1:
        return
    from mpi4py import MPI

    mistake = alone_by_mistake(MPI.COMM_WORLD)
    if mistake is not None and mistake.is_reporter:
        warn(comm, mistake.message)


def not_spoken() -> Mistake | None:
    """Where MPI would abort as it is loaded: MPICH without PMIx, under a launcher that speaks nothing else.

    Known of the MPICH that mpi4py's wheels load, before it is loaded here.
    """
    if UNCOUNTED not in os.environ or any(name in os.environ for name in PMI_SERVERS):
        return None
    try:
        module = importlib.util.find_spec("mpi4py.MPI")
        if module is None or "mpich" not in os.path.basename(module.origin or ""):
            return None
        told = subprocess.run([sys.executable, "-c", _VERSION], capture_output=True, text=True, timeout=60)
    except (ImportError, RuntimeError, OSError, subprocess.SubprocessError):
        return None  # MPI says itself what is wrong
    version = told.stdout
    if told.returncode or "MPICH" not in version or "pmix" in version.lower():  # among the options it was built with
        return None
    return Mistake(
        f"the launcher speaks PMIx ({UNCOUNTED}), which {library_name(version)} was built without; use the mpirun of "
        "this MPI, or srun --mpi=pmi2",
        _number(os.environ[UNCOUNTED]) == 0,
    )
