"""How many times a run was taken up again."""

from __future__ import annotations

from pathlib import Path

import pytest
from mpi4py import MPI

from modelpar.cli.restarts import counted_restart, restarts
from modelpar.errors import DataError, SpecError

COMM = MPI.COMM_SELF


class Killed(BaseException):
    """Stands for a process that ends without a word."""


def fail(run: Path, limit: int | None, how: type[BaseException] = Killed) -> None:
    with pytest.raises(how), counted_restart(COMM, run, limit, resume=True):
        raise how("the end")


def test_a_run_is_taken_up_again_so_many_times(tmp_path: Path) -> None:
    run = tmp_path / "runs" / "a"
    fail(run, 2)  # the start
    assert restarts(run) == 0
    for n in (1, 2):
        fail(run, 2)
        assert restarts(run) == n
    with pytest.raises(SpecError, match=r"taken up again 2 time\(s\).*--max-restarts is 2"), \
            counted_restart(COMM, run, 2, resume=True):  # fmt: skip
        pytest.fail("it was taken up again")
    assert restarts(run) == 2
    fail(run, 3)
    assert restarts(run) == 3


def test_it_is_counted_without_a_limit(tmp_path: Path) -> None:
    fail(tmp_path, None)
    assert restarts(tmp_path) == 1
    with pytest.raises(SpecError):
        fail(tmp_path, 1)


def test_a_start_without_resume_is_not_counted(tmp_path: Path) -> None:
    with counted_restart(COMM, tmp_path, None, resume=False):
        pass
    assert not list(tmp_path.iterdir())


def test_without_a_limit_no_directory_is_made(tmp_path: Path) -> None:
    fail(tmp_path / "none", None)
    assert not list(tmp_path.iterdir())


def test_a_mistake_is_not_counted_and_leaves_nothing(tmp_path: Path) -> None:
    fail(tmp_path / "new", 5, DataError)
    assert not list(tmp_path.iterdir())
    fail(tmp_path, 5, DataError)
    assert not list(tmp_path.iterdir())
    fail(tmp_path, 5)
    fail(tmp_path, 5, DataError)
    assert restarts(tmp_path) == 1


def test_a_run_that_has_finished_is_not_refused(tmp_path: Path) -> None:
    (tmp_path / "restarts").write_text("7\n")
    (tmp_path / "summary.json").write_text("{}")
    with counted_restart(COMM, tmp_path, 2, resume=True):
        pass
    assert restarts(tmp_path) == 7


def test_a_file_without_a_number(tmp_path: Path) -> None:
    (tmp_path / "restarts").write_text("many\n")
    with pytest.raises(SpecError, match="holds 'many'"), counted_restart(COMM, tmp_path, 2, resume=True):
        pytest.fail("it was taken up again")
