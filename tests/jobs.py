"""Starting MPI jobs from a test, and ending them: whatever happens, no process of a job outlives it."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import psutil
import pytest

TAG = "MODELPAR_TEST_JOB"  # every process of a job has this in its environment, orphans and grandchildren included

# One thread a rank: the ranks of a test share few cores, and sums in another order are another test.
ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")

# Open MPI refuses root and more ranks than cores, and binds ranks to cores, unless it is told otherwise; by
# environment, so that an `mpirun` inside a script or a document is told too.  MPICH ignores all this.
OPEN_MPI = {
    "OMPI_ALLOW_RUN_AS_ROOT": "1",
    "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_ALLOW_RUN_AS_ROOT": "1",
    "PRTE_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
    "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
    "PRTE_MCA_hwloc_default_binding_policy": "none",
    "OMPI_MCA_rmaps_base_oversubscribe": "1",
    "OMPI_MCA_hwloc_base_binding_policy": "none",
    "OMPI_MCA_mpi_yield_when_idle": "1",  # another job may run beside it
}

# More ranks than cores: one that waits for a message sleeps, rather than keep the core from its sender.
# Yielding alone is not enough for that on Linux.  Open MPI knows by itself when it has more ranks than cores.
MPICH = {"MPIR_CVAR_POLLS_BEFORE_YIELD": "50", "MPIR_CVAR_ENABLE_HEAVY_YIELD": "1"}

# What a launcher hands to its ranks: a job started inside a rank, or inside a singleton, must not see it.
INHERITED = ("PMI_", "PMIX_", "OMPI_COMM_", "OMPI_UNIVERSE_", "HYDI_", "HYDRA_", "MPI_LOCAL")


# Whether this process is a rank of a job itself.
IN_JOB = TAG in os.environ or any(name.startswith(("PMI_RANK", "OMPI_COMM_WORLD_RANK")) for name in os.environ)

TESTS = Path(__file__).parent


def files_with(mark: str) -> list[str]:
    """The files of tests that bear this mark, as they say themselves; from the folder above the tests."""
    line = re.compile(rf"^pytestmark = [^=]*\bpytest\.mark\.{mark}\b", re.MULTILINE)
    files = sorted(TESTS.rglob("test_*.py"))
    return [file.relative_to(TESTS.parent).as_posix() for file in files if line.search(file.read_text("utf-8"))]


def numbers_of_ranks(file: str) -> tuple[int, ...]:
    """The numbers of ranks that a file with the mark ``ranks`` is for: those in ``ranks(...)``, else 1 to 4."""
    named = re.search(
        r"^pytestmark = .*\bpytest\.mark\.ranks\(([\d, ]+)\)", (TESTS.parent / file).read_text("utf-8"), re.M
    )
    return tuple(int(n) for n in named[1].split(",")) if named else (1, 2, 3, 4)


@dataclass(frozen=True)
class Outcome:
    """How a job ended; ``returncode`` is None where the time limit ended it."""

    returncode: int | None
    output: str  # standard output and standard error, as they came
    tag: str  # of the job's processes, see ``alive``
    ended: float = 0.0  # when the launcher ended, by ``time.time``

    def check(self) -> Outcome:
        """Fail the test, with all that the job printed, unless the job ended well."""
        if self.returncode != 0:
            how = "was killed at its time limit" if self.returncode is None else f"ended with {self.returncode}"
            pytest.fail(f"the job {how}; it printed:\n{self.output}", pytrace=False)
        return self


def environment(**extra: str) -> dict[str, str]:
    """Of a job: this interpreter's commands first, one thread a rank, any MPI content, no trace of an outer job."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(INHERITED)}
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", os.defpath)])
    return {
        **kept,
        **ONE_THREAD,
        **OPEN_MPI,
        **MPICH,
        "MODELPAR_NO_CACHE": "1",
        "PATH": path,
        "PYTHONUNBUFFERED": "1",
        **extra,
    }


@cache
def launcher() -> tuple[str, ...]:
    """``mpiexec`` and the flags it needs; the one beside this interpreter comes before any other."""
    beside = Path(sys.executable).parent / "mpiexec"
    result = str(beside) if beside.exists() else shutil.which("mpiexec")
    if result is None:
        pytest.fail("no mpiexec was found; install an MPI, for example with: pip install '.[mpich]'", pytrace=False)
    version = subprocess.run(
        [result, "--version"], env=environment(), capture_output=True, text=True, timeout=60
    ).stdout
    open_mpi = any(name in version for name in ("Open MPI", "OpenRTE", "PRRTE"))
    return (result, "--allow-run-as-root", "--oversubscribe") if open_mpi else (result,)


def run(
    command: Sequence[str | Path], *, limit: float, cwd: Path | None = None, progress: Path | None = None, **env: str
) -> Outcome:
    """Run ``command`` for at most ``limit`` seconds; then, whatever happened, end all that it started.

    With ``progress``, a file that the job writes to, the limit begins again whenever that file has grown.
    """
    tag = uuid.uuid4().hex
    process = subprocess.Popen(
        [str(word) for word in command],
        env=environment(**env, **{TAG: tag}),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        noted = -1
        while True:
            before, noted = noted, _size(progress)
            if noted == before:  # nothing moved for as long as the limit
                end_all(process, tag)
                output, _ = process.communicate(timeout=30)
                return Outcome(None, output, tag)
            with suppress(subprocess.TimeoutExpired):
                output, _ = process.communicate(timeout=limit)
                return Outcome(process.returncode, output, tag, time.time())
    finally:
        end_all(process, tag)


def _size(file: Path | None) -> int:
    return file.stat().st_size if file is not None and file.exists() else 0


def run_on_ranks(
    n: int,
    command: Sequence[str | Path],
    *,
    limit: float,
    cwd: Path | None = None,
    progress: Path | None = None,
    **env: str,
) -> Outcome:
    """Run ``command`` on ``n`` ranks for at most ``limit`` seconds, as ``run`` does."""
    return run([*launcher(), "-n", str(n), *command], limit=limit, cwd=cwd, progress=progress, **env)


def end_all(process: subprocess.Popen[str], tag: str) -> None:
    """Kill the job's process group, and those of its processes that left the group, as Open MPI's ranks do."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
    deadline = time.monotonic() + 10  # a killed process takes a moment to go, and may have begun another before
    while (left := alive(tag)) and time.monotonic() < deadline:
        for other in left:
            with suppress(psutil.Error):
                other.kill()
        psutil.wait_procs(left, timeout=1)


def alive(tag: str) -> list[psutil.Process]:
    """The processes of the job with this tag, wherever they have got to."""
    result = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(TAG) == tag and process.status() != psutil.STATUS_ZOMBIE:
                result.append(process)
        except psutil.Error:
            continue  # ended meanwhile, or another user's
    return result
