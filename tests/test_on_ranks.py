"""Every file with the mark ``ranks`` on 1, 2, 3 and 4 ranks: one MPI job for each file and number of ranks.

By hand, where a debugger or the bare output is wanted: mpiexec -n 3 python -m pytest tests/comm/test_exchange.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from tests import jobs

HERE = Path(__file__).parent
FILES = [Path(name) for name in jobs.files_on_ranks()]
LIMIT = 240  # seconds for one job, compilation of the kernels included


def inner_pytest(file: Path, patience: float = 0.8 * LIMIT) -> list[str | Path]:
    """The command of one rank, which prints where it hangs when a test takes more than ``patience`` seconds."""
    hang = f"faulthandler_timeout={patience:g}"
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-q", "-o", hang, file]


@pytest.mark.parametrize("n", [1, 2, 3, 4], ids="ranks={}".format)
@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(HERE)))
def test_on_ranks(file: Path, n: int) -> None:
    jobs.run_on_ranks(n, inner_pytest(file), limit=LIMIT, cwd=HERE.parent).check()


# ---- the machinery itself: a failure or a hang of one rank fails the outer test and leaves nothing running

FAILS_ON_THE_LAST = """
def test_alone(comm):
    assert comm.rank < comm.size - 1, "the last rank is wrong"
    comm.barrier()
"""
AGREES = """
def test_agree(comm, agree):
    agree(comm.rank != 1, "ranks differ")
"""
HANGS = """
def test_hang(comm):
    if comm.rank == 0:
        comm.recv(source=comm.size - 1)
    else:
        comm.barrier()
"""
BROKEN = """
import a_module_that_is_not_there
"""


def outcome_of(code: str, tmp_path: Path, n: int, limit: float = 90) -> jobs.Outcome:
    """Of a test file with this code, run as the files on ranks are."""
    (tmp_path / "conftest.py").write_text((HERE / "in_job.py").read_text())
    (tmp_path / "test_it.py").write_text(code)
    settings = ["-c", HERE.parent / "pyproject.toml", "--rootdir", tmp_path]
    command = [*inner_pytest(tmp_path / "test_it.py", patience=2), *settings]
    return jobs.run_on_ranks(n, command, limit=limit, cwd=HERE.parent)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (FAILS_ON_THE_LAST, "the last rank is wrong"),
        (AGREES, "ranks differ: not so on rank 1 of 3"),
        (BROKEN, "a_module_that_is_not_there"),
    ],
    ids=["one rank fails", "disagreement", "broken file"],
)
def test_a_failure_ends_the_job(code: str, told: str, tmp_path: Path) -> None:
    outcome = outcome_of(code, tmp_path, 3)
    assert outcome.returncode not in (0, None), outcome.output
    assert told in outcome.output


def test_a_hang_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    outcome = outcome_of(HANGS, tmp_path, 2, limit=20)
    assert outcome.returncode is None, outcome.output
    assert "test_hang" in outcome.output  # each rank says where it hung
    assert not jobs.alive(outcome.tag)
