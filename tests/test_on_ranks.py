"""Every file with the mark ``ranks`` on 1, 2, 3 and 4 ranks, or those that the mark names: one MPI job for each number
of ranks, which runs them all.

A file that fails ends its job; the files after it run in another one.  With ``--second-mpi``, after all of that passed
with another MPI: every file with this one, and every number of ranks, but not every file on every number of ranks.

By hand, where a debugger or the bare output is wanted: mpiexec -n 3 python -m pytest tests/comm/test_exchange.py
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests import extent, in_job, jobs

HERE = Path(__file__).parent
ROOT = HERE.parent
FILES = jobs.files_with("ranks")
LIMIT = 240  # seconds for one test, compilation of the kernels included

pytestmark = pytest.mark.jobs


def inner_pytest(
    *files: str | Path, patience: float = 0.8 * LIMIT, how_much: str = extent.PRODUCTS
) -> list[str | Path]:
    """The command of one rank, which prints where it hangs when a test takes more than ``patience`` seconds."""
    hang = f"faulthandler_timeout={patience:g}"
    return [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", "-x", "-q", "-o", hang, how_much, *files]


def outcomes(
    n: int, files: Sequence[str], folder: Path, *options: str | Path, cwd: Path = ROOT, how_much: str = extent.PRODUCTS
) -> dict[str, jobs.Outcome]:
    """How each file ended on ``n`` ranks: one job, and where a file fails in it another one for those that are left.

    files    relative to ``cwd``, as the names of their tests begin
    folder   for the jobs' notes of their progress
    """
    result: dict[str, jobs.Outcome] = {}
    left = list(files)
    while left:
        progress = folder / f"ranks-{n}-of-{len(left)}-files"
        progress.touch()
        outcome = jobs.run_on_ranks(
            n, [*inner_pytest(*left, how_much=how_much), *options], limit=LIMIT, cwd=cwd, progress=progress,
            PYTHONPATH=str(ROOT), **{in_job.PROGRESS: str(progress)},
        )  # fmt: skip
        through, failed = read(progress, left)
        if outcome.returncode == 0 and in_job.FINISHED in progress.read_text().splitlines():
            through, failed = left, None
        result |= {file: jobs.Outcome(0, outcome.output, outcome.tag) for file in through}
        if failed is not None:
            result[failed] = outcome
        left = [file for file in left if file not in result]
    return result


def read(progress: Path, files: Sequence[str]) -> tuple[Sequence[str], str]:
    """(files that a job that has failed had finished on all ranks, the file in which it failed)"""
    begun, failed = [], []
    for line in progress.read_text().splitlines():
        for prefix, into in ((in_job.BEGUN, begun), (in_job.FAILED, failed)):
            if line.startswith(prefix):
                into.append(files.index(line.removeprefix(prefix).partition("::")[0]))
    wrong = failed[0] if failed else max(begun, default=0)
    return files[: min(wrong, max(begun, default=0))], files[wrong]


@pytest.fixture(scope="module")
def outcome_on_ranks(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, int], jobs.Outcome]:
    """``outcome_on_ranks(file, n)``: how it ended in the job of all files that are to run on ``n`` ranks."""
    known: dict[int, dict[str, jobs.Outcome]] = {}
    wanted = [item.callspec.params for item in request.session.items if item.name.startswith("test_on_ranks[")]

    def outcome(file: str, n: int) -> jobs.Outcome:
        if n not in known:
            files = [params["file"] for params in wanted if params["n"] == n]
            option = request.config.option
            folder, second = tmp_path_factory.mktemp("progress"), ["--second-mpi"] * option.second_mpi
            known[n] = outcomes(n, files, folder, *second, how_much=option.extent)
        return known[n][file]

    return outcome


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if metafunc.function is not test_on_ranks:
        return
    cases = []
    for n in (2, 1, 3, 4):
        for i, file in enumerate(FILES):
            if n not in jobs.numbers_of_ranks(file):
                continue
            if not metafunc.config.option.second_mpi or n == 2 or n == (3, 4)[i % 2] or (n == 1 and i % 4 == 0):
                marks = [] if n == 2 else [pytest.mark.slow]
                name = f"{file.removeprefix('tests/')}-ranks={n}"
                cases.append(pytest.param(file, n, id=name, marks=marks))
    metafunc.parametrize(("file", "n"), cases)


def test_on_ranks(file: str, n: int, outcome_on_ranks: Callable[[str, int], jobs.Outcome]) -> None:
    outcome_on_ranks(file, n).check()


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


GOOD = """
def test_good(comm):
    comm.barrier()
"""


def settings(folder: Path) -> list[str | Path]:
    """Options of a pytest for files in ``folder``, which run as the files on ranks do."""
    (folder / "conftest.py").write_text('pytest_plugins = ["tests.extent", "tests.in_job"]\n')
    return ["-c", ROOT / "pyproject.toml", "--rootdir", folder]


def outcome_of(code: str, tmp_path: Path, n: int, limit: float = 90) -> jobs.Outcome:
    """Of a test file with this code."""
    (tmp_path / "test_it.py").write_text(code)
    command = [*inner_pytest(tmp_path / "test_it.py", patience=2), *settings(tmp_path)]
    return jobs.run_on_ranks(n, command, limit=limit, cwd=ROOT)


def test_a_file_that_fails_hides_no_other(tmp_path: Path) -> None:
    codes = {"test_a.py": GOOD, "test_b.py": FAILS_ON_THE_LAST, "test_c.py": BROKEN, "test_d.py": GOOD}
    for name, code in codes.items():
        (tmp_path / name).write_text(code)
    result = outcomes(2, list(codes), tmp_path, *settings(tmp_path), cwd=tmp_path)
    assert [name for name in codes if result[name].returncode == 0] == ["test_a.py", "test_d.py"]
    assert "rank 1 of 2 failed in test_b.py::test_alone" in result["test_b.py"].output
    assert "a_module_that_is_not_there" in result["test_c.py"].output


@pytest.mark.parametrize(
    ("lines", "through", "failed"),
    [
        (["begun a::1", "begun b::1", "begun b::2"], "a", "b"),  # it hung, or a process ended without a word
        (["begun a::1", "begun b::1", "begun c::1", "failed b::1"], "a", "b"),  # of a rank that was behind
        (["begun a::1", "failed b::1"], "", "b"),  # of a rank that was ahead
        (["failed c"], "", "c"),  # it cannot be imported
        ([], "", "a"),
    ],
)
def test_what_a_failed_job_tells(lines: list[str], through: str, failed: str, tmp_path: Path) -> None:
    (tmp_path / "progress").write_text("".join(f"{line}\n" for line in lines))
    assert read(tmp_path / "progress", list("abc")) == (list(through), failed)


@pytest.mark.parametrize(
    ("code", "expected"),
    [
        (FAILS_ON_THE_LAST, "the last rank is wrong"),
        (AGREES, "ranks differ: not so on rank 1 of 3"),
        (BROKEN, "a_module_that_is_not_there"),
    ],
    ids=["one rank fails", "disagreement", "broken file"],
)
def test_a_failure_ends_the_job(code: str, expected: str, tmp_path: Path) -> None:
    outcome = outcome_of(code, tmp_path, 3)
    assert outcome.returncode not in (0, None), outcome.output
    assert expected in outcome.output


@pytest.mark.slow
def test_a_hang_is_ended_and_leaves_nothing(tmp_path: Path) -> None:
    outcome = outcome_of(HANGS, tmp_path, 2, limit=20)
    assert outcome.returncode is None, outcome.output
    assert "test_hang" in outcome.output  # each rank says where it hung
    assert not jobs.alive(outcome.tag)
