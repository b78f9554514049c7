"""Jobs of ``modelpar train`` that are started, killed and waited for: for ``modelpar soak``.

A job has ranks of the MPI that this environment has, by the launcher beside its interpreter.  No process of a job
outlives the block that it is started in.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from mpi4py import MPI

from modelpar.bench.peers.process import environment

TAG = "MODELPAR_SOAK_JOB"  # every process of a job has it in its environment, orphans and grandchildren included
GONE = 10.0  # seconds within which killed processes must have gone
PROBE_LIMIT = 60.0  # seconds for a job that only tries a setting of MPI
LAST_WORDS = 300  # characters of a job's output that a problem quotes

# More ranks than cores: one that waits for a message gives its core away.  Open MPI refuses root, and more ranks than
# cores, unless it is told otherwise.
SHARED_CORES = {
    "MPICH": {"MPIR_CVAR_POLLS_BEFORE_YIELD": "50", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"},
    "Open MPI": {
        "OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_ALLOW_RUN_AS_ROOT": "1", "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "PRTE_MCA_hwloc_default_binding_policy": "none",
        "OMPI_MCA_mpi_yield_when_idle": "1",
    },
}  # fmt: skip
# Ways for messages to travel, and to be summed, which must not change a bit of an exact training.
SETTINGS = {
    "MPICH": {
        "network only": {"MPIR_CVAR_NOLOCAL": "1"},
        "UCX over TCP": {"MPIR_CVAR_NOLOCAL": "1", "UCX_TLS": "tcp,self"},
        "over OFI": {"MPIR_CVAR_CH4_NETMOD": "ofi"},
        "OFI over TCP": {"MPIR_CVAR_CH4_NETMOD": "ofi", "FI_PROVIDER": "tcp", "MPIR_CVAR_NOLOCAL": "1"},
        "sums by scattering": {"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "reduce_scatter_allgather"},
        "sums by doubling": {"MPIR_CVAR_ALLREDUCE_INTRA_ALGORITHM": "recursive_doubling"},
    },
    "Open MPI": {
        "shared memory": {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,sm"},
        "over TCP": {"OMPI_MCA_pml": "ob1", "OMPI_MCA_btl": "self,tcp"},
        "without han": {"OMPI_MCA_coll": "^han"},
        "sums by rings": {
            "OMPI_MCA_coll_tuned_use_dynamic_rules": "1", "OMPI_MCA_coll_tuned_allreduce_algorithm": "4",
        },
    },
}  # fmt: skip
DEFAULT = "default"
_PROBE = "from mpi4py import MPI; print('ranks', MPI.COMM_WORLD.allreduce(1))"


class Launcher:
    """How this environment starts ranks, and what its MPI can be told.

    settings   by name: variables of the environment; each has started two ranks here
    """

    def __init__(self) -> None:
        library = MPI.Get_library_version()
        self.mpi = next((name for name in SETTINGS if name in library), "")
        self.command = _command(self.mpi)
        self.settings: dict[str, dict[str, str]] = {DEFAULT: {}}
        if not self._starts({}):
            self.command = []  # none, or of another MPI than mpi4py's
            return
        known = SETTINGS.get(self.mpi, {})
        self.settings |= {name: setting for name, setting in known.items() if self._starts(setting)}

    @property
    def max_ranks(self) -> int | None:
        """1 where there is no launcher; None where there is one, which starts as many as it is told."""
        return None if self.command else 1

    def environment(self, setting: str = DEFAULT) -> dict[str, str]:
        """The variables of a job with one thread a rank."""
        return {**environment(1), **SHARED_CORES.get(self.mpi, {}), **self.settings.get(setting, {})}

    def line(self, n_ranks: int, words: Sequence[str]) -> list[str]:
        """The command that runs ``modelpar`` with these words on so many ranks; one rank needs no launcher."""
        start = [*self.command, "-n", str(n_ranks)] if n_ranks > 1 else []
        return [*start, sys.executable, "-m", "modelpar", *words]

    def _starts(self, setting: dict[str, str]) -> bool:
        """Whether two ranks meet under a setting."""
        if not self.command:
            return False
        line = [*self.command, "-n", "2", sys.executable, "-c", _PROBE]
        with Process(line, {**self.environment(), **setting}) as process:
            status, printed = process.wait(PROBE_LIMIT)
        return status == 0 and printed.count("ranks 2") == 2


def _command(mpi: str) -> list[str]:
    """``mpiexec`` with the options that it needs; the one beside this interpreter comes before any other."""
    beside = Path(sys.executable).parent / "mpiexec"
    found = str(beside) if beside.exists() else shutil.which("mpiexec")
    if found is None:
        return []
    return [found, "--oversubscribe"] if mpi == "Open MPI" else [found]


class Process:
    """A command with all that it starts; both are killed at the end of the block."""

    def __init__(self, line: Sequence[str], variables: dict[str, str], folder: Path | None = None) -> None:
        self.tag = uuid.uuid4().hex
        self.started = time.monotonic()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up and block
        self._process = subprocess.Popen(
            line, env={**variables, TAG: self.tag}, cwd=folder, stdin=subprocess.DEVNULL, stdout=self._output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: Any) -> None:
        self.kill()
        self._output.close()

    @property
    def runs(self) -> bool:
        """Whether the command has not ended."""
        return self._process.poll() is None

    def kill(self) -> int:
        """Kill every process of the job at once, and wait until they are gone; how many there were."""
        there = self.alive()
        killed, deadline = len(there), time.monotonic() + GONE
        while there and time.monotonic() < deadline:  # again: one may have started another before it was killed
            for process in there:
                with suppress(psutil.Error):
                    process.send_signal(signal.SIGKILL)
            psutil.wait_procs(there, timeout=1)
            there = self.alive()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(GONE)
        return killed

    def wait(self, limit: float) -> tuple[int | None, str]:
        """(exit status, all that was printed); the status is None where it did not end within ``limit`` seconds."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(limit)
        return self._process.poll(), self.printed()

    def printed(self) -> str:
        """All that the job has printed so far."""
        self._output.seek(0)
        return self._output.read().decode(errors="replace")

    def last_words(self) -> str:
        """The end of its output in one line."""
        return " ".join(self.printed().split())[-LAST_WORDS:]

    def alive(self) -> list[psutil.Process]:
        """The processes of this job, wherever they have got to."""
        result = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(TAG) == self.tag and process.status() != psutil.STATUS_ZOMBIE:
                    result.append(process)
            except (psutil.Error, OSError):  # ended meanwhile, or another user's
                continue
        return result


def job(launcher: Launcher, n_ranks: int, words: Sequence[str], temporary: Path, setting: str = DEFAULT) -> Process:
    """``modelpar`` with these words on ``n_ranks`` ranks.

    temporary   the folder for its temporary files
    """
    variables = {**launcher.environment(setting), "TMPDIR": str(temporary)}
    return Process(launcher.line(n_ranks, words), variables)
