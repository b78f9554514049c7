"""How much runs, on how many cores, and what is said of the rest: a pytest in a pytest."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests import extent, jobs

pytest_plugins = ["pytester"]

CODE = """
import pytest

@pytest.mark.parametrize("a", [0, 1])
@pytest.mark.parametrize("b", [[0], [1]], ids=["c", "d"])
@pytest.mark.parametrize("c", [False, True])
def test_three(a, b, c): pass

@pytest.mark.parametrize("a", range(5))
@pytest.mark.parametrize("b", range(5))
def test_two(a, b): pass

@pytest.mark.slow
def test_slow(): pass
"""
N = {extent.QUICK: 4 + 25, extent.ALL: 4 + 25 + 1, extent.PRODUCTS: 8 + 25 + 1}


@pytest.fixture
def counted(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch):
    """``counted(options...)`` -> (passed, left out as the last line says) of CODE in folder/test_it.py"""
    monkeypatch.setenv("PYTHONPATH", str(jobs.TESTS.parent))
    monkeypatch.delenv("PYTEST_XDIST_WORKER", raising=False)
    pytester.makeini("[pytest]\nmarkers =\n    slow\n    jobs\ntestpaths = folder")
    folder = pytester.mkdir("folder")
    (folder / "test_it.py").write_text(CODE)

    def run(*options: str) -> tuple[int, int]:
        done = pytester.runpytest_subprocess("-p", "tests.extent", "-p", "tests.workers", *options, timeout=120)
        left_out = re.findall(r"(\d+) more (?:cases|combinations).* were left out", done.stdout.str())
        assert done.ret == 0
        return done.parseoutcomes()["passed"], int(left_out[0]) if left_out else 0

    return run


@pytest.mark.parametrize(
    ("options", "extent_of_it"),
    extent.quick(
        [
            ([], extent.QUICK),  # on all cores: what is left out is counted by workers
            (["folder/test_it.py"], extent.PRODUCTS),
            (["-n", "0"], extent.QUICK),
            (["-n", "0", "folder"], extent.QUICK),
            (["-n", "0", "--all"], extent.ALL),
            (["-n", "0", "--products"], extent.PRODUCTS),
            (["--quick", "folder/test_it.py"], extent.QUICK),
            (["--all", "folder/test_it.py"], extent.ALL),
        ],
        n=2,
    ),
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_runs(options: list[str], extent_of_it: str, counted) -> None:
    assert counted(*options) == (N[extent_of_it], N[extent.PRODUCTS] - N[extent_of_it])


@pytest.mark.slow
def test_named_tests_run_whatever_their_marks(counted) -> None:
    assert counted("folder/test_it.py::test_slow") == (1, 0)


def test_files_that_start_jobs_say_so() -> None:
    """So that they come first."""
    marked = set(jobs.files_with("jobs"))
    assert marked
    start = re.compile(r"^(?!def ).*\b(jobs\.run_on_ranks|kills\.one)\(|def test_\w+\([^)]*\bon_ranks\b", re.MULTILINE)
    for file in jobs.TESTS.rglob("test_*.py"):
        name, text = file.relative_to(jobs.TESTS.parent).as_posix(), file.read_text("utf-8")
        if start.search(text) and file != Path(__file__):
            assert name in marked, f"{name} starts MPI jobs: it needs pytestmark = pytest.mark.jobs"
    assert not marked & set(jobs.files_with("ranks"))
