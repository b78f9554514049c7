"""Threads of a rank: a fair share of the cores, unless the user has chosen.

Modules: modelpar/kernels/threads
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest
from mpi4py import MPI
from threadpoolctl import threadpool_info, threadpool_limits

import modelpar
from modelpar.comm import cores
from modelpar.kernels import threads
from modelpar.sklearn import RBMTransformer


def blas_threads() -> set[int]:
    return {library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"}


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that has done nothing so far, on a machine with four cores and nothing in the environment."""
    for name in (*cores._OURS, *cores._LOCAL_RANKS, *cores._SLURMS):
        monkeypatch.delenv(name, raising=False)
    before = threads.get_threads()
    monkeypatch.setattr(cores, "_settled", False)
    monkeypatch.setattr(cores, "own_cores", lambda: {0, 1, 2, 3})
    monkeypatch.setattr(cores, "cores_of", sorted)  # without hyperthreads
    monkeypatch.setattr(cores, "quota", lambda: None)
    threads.set_threads(1)
    with threadpool_limits(4, user_api="blas"):
        yield
    threads.set_threads(before)


def grid_threads() -> int:
    with modelpar.Grid(MPI.COMM_SELF):
        return threads.get_threads()


def test_the_first_grid_takes_the_free_cores() -> None:
    assert modelpar.info()["threads_per_rank"] == 4, "what a grid would choose"
    assert threads.get_threads() == 1, "and nothing is changed by asking"
    assert grid_threads() == 4
    assert blas_threads() == {4}
    result = modelpar.info()
    assert (result["threads_per_rank"], result["cores"], result["ranks"]) == (4, 4, 1)
    threads.set_threads(3)
    assert grid_threads() == 3, "the second grid chooses nothing"


def test_ranks_that_the_grid_does_not_know_have_their_share(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMPI_COMM_WORLD_LOCAL_SIZE", "2")
    assert grid_threads() == 2
    assert blas_threads() == {2}


@pytest.mark.parametrize(
    ("variables", "expected"),  # per node, this node, this task of it, and the processors of each: as srun 22.05 says
    [
        (("4(x2),3", "0", "3", "none", ""), 4),
        (("4(x2),3", "1", "0", "none", ""), 4),
        (("4(x2),3", "2", "0", "none", ""), 3),
        (("2,1", "1", "0", "mask_cpu:", "0x1"), 1),
        (("2", "0", "1", "mask_cpu:", "0x0F,0xF0"), 1),  # a farm whose tasks have four cores each
        (("2", "0", "1", "mask_cpu:", "0x3,0x3"), 2),  # --cpu-bind=sockets
        (("4", "0", "2", "mask_cpu:", "0x1"), 4),  # --overcommit
        (("4", "0", "3", "mask_cpu:", "0x1,0x2"), 2),
        (("4", "0", "3", "rank", ""), 4),
        (("4", "7", "3", "none", ""), 0),
        (("4", "", "", "none", ""), 0),
        (("", "0", "0", "mask_cpu:", "0x1"), 0),
    ],
)
def test_tasks_of_slurm_that_share_processors(variables: tuple[str, ...], expected: int) -> None:
    environment = dict(zip(cores._SLURMS, variables, strict=True))
    assert cores.tasks_beside(environment) == expected
    assert cores.ranks_beside(environment, 9) == (expected or 9)
    assert cores.ranks_beside({**environment, "MPI_LOCALNRANKS": "5"}, 9) == 5, "mpirun within a step"


def test_a_limit_of_the_container_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "quota", lambda: 3)
    assert grid_threads() == 3


def test_hyperthreads_of_a_core_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "cores_of", lambda processors: [frozenset({0, 2}), frozenset({1, 3})])
    result = modelpar.info()
    assert (result["threads_per_rank"], result["cores"], result["processors"]) == (2, 2, 4)
    assert grid_threads() == 2


@pytest.mark.parametrize("name", ["OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"])
def test_the_environment_is_followed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "3")
    assert modelpar.info()["threads_per_rank"] == 3
    assert grid_threads() == 3
    assert blas_threads() == {4}, "the BLAS is as it was: it has read the environment itself"


@pytest.mark.parametrize(
    ("value", "expected"), [("3,2", 3), (" 5 ", 5), ("0", None), ("-1", None), ("many", None), ("", None)]
)
def test_what_the_environment_may_say(value: str, expected: int | None) -> None:
    assert cores.threads_named({"OMP_NUM_THREADS": value}) == expected


def test_kernels_come_before_openmp_and_openmp_before_the_blas() -> None:
    assert cores.threads_named({"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "2"}) == 2
    assert cores.threads_named({"NUMBA_NUM_THREADS": "3", "OMP_NUM_THREADS": "2"}) == 3


def test_limits_of_threadpoolctl_are_followed() -> None:
    with threadpool_limits(2, user_api="blas"):
        assert grid_threads() == 2
        assert blas_threads() == {2}


def test_what_numba_was_told_is_followed(monkeypatch: pytest.MonkeyPatch) -> None:
    numbas = SimpleNamespace(_is_initialized=True, get_num_threads=lambda: 2)
    monkeypatch.setitem(cores.sys.modules, "numba.np.ufunc.parallel", numbas)
    monkeypatch.setattr(cores, "_numba_default", lambda: 4)
    assert grid_threads() == 2
    assert blas_threads() == {4}


def test_threads_are_set_before_the_blas_is_used() -> None:
    """As the first thing that a script does; a BLAS that is loaded later must not bring threads of its own."""
    program = (
        "import modelpar; modelpar.set_threads(1)\n"
        "from scipy.linalg import blas\n"
        "from threadpoolctl import threadpool_info\n"
        "print({library['num_threads'] for library in threadpool_info() if library['user_api'] == 'blas'})"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "3"}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.stdout.strip() == "{1}", done.stderr


def test_set_threads_wins_over_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "3")
    modelpar.set_threads(np.int64(2))  # type: ignore[arg-type]
    assert (grid_threads(), blas_threads(), modelpar.info()["threads_per_rank"]) == (2, {2}, 2)


@pytest.mark.parametrize(
    ("n", "error"), [(0, ValueError), (-1, ValueError), (10**30, ValueError), (1.5, TypeError), ("2", TypeError)]
)
def test_set_threads_refuses_what_is_no_number_of_threads(n: object, error: type[Exception]) -> None:
    with pytest.raises(error):
        modelpar.set_threads(n)  # type: ignore[arg-type]
    assert (threads.get_threads(), blas_threads(), cores.is_settled()) == (1, {4}, False)


@pytest.mark.parametrize(
    ("n_jobs", "expected"), [(None, None), (1, 1), (3, 3), (-1, 4), (-2, 3), (-9, 1), (np.int32(2), 2)]
)
def test_n_jobs_by_scikit_learns_convention(n_jobs: int | None, expected: int | None) -> None:
    assert cores.jobs(n_jobs, 4) == expected


@pytest.mark.parametrize("n_jobs", [0, 1.0, "2", True])
def test_other_values_of_n_jobs_are_refused(n_jobs: object) -> None:
    with pytest.raises(ValueError, match=r"n_jobs is .*, but must be None"):
        RBMTransformer(2, n_iter=1, n_jobs=n_jobs).fit(np.eye(4))  # type: ignore[arg-type]


def test_an_estimator_has_its_jobs_while_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []
    real = threads.split
    monkeypatch.setattr(threads, "split", lambda *a, **k: (seen.append(threads.get_threads()), real(*a, **k))[1])
    model = RBMTransformer(2, n_iter=1, n_jobs=2).fit(np.eye(12))
    assert set(seen) == {2}
    assert (threads.get_threads(), blas_threads()) == (4, {4}), "afterwards as before"
    seen.clear()
    model.set_params(n_jobs=-1).transform(np.eye(12))
    assert set(seen) == {4}
    seen.clear()
    monkeypatch.setenv("OMP_NUM_THREADS", "1")  # as joblib sets it in its workers
    model.transform(np.eye(12))
    assert set(seen) == {1}


def test_threads_of_the_caller_have_limits_of_their_own() -> None:
    threads.set_threads(2)
    seen = {}

    def look() -> None:
        seen["other"] = threads.get_threads()

    with threads.limited(3):
        other = threading.Thread(target=look)
        other.start()
        other.join()
        ranges: list[tuple[int, int]] = []
        threads.split(30, 1, lambda a, b: ranges.append((a, b)))
        seen["panels"] = len(ranges)
    assert seen == {"other": 2, "panels": 3}
    assert threads.get_threads() == 2


@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="no fork")
def test_a_forked_process_has_one_thread_and_may_have_more() -> None:
    threads.set_threads(3)
    threads.split(30, 1, lambda a, b: None)  # the pool is there now

    def child(answers: multiprocessing.SimpleQueue[list[int]]) -> None:
        before = threads.get_threads()
        threads.set_threads(2)
        ranges: list[int] = []
        threads.split(30, 1, lambda a, b: ranges.append(a))
        answers.put([before, len(ranges)])

    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    process = context.Process(target=child, args=(answers,))
    process.start()
    process.join(60)
    assert not process.is_alive(), "it waits for threads that are not there"
    assert answers.get() == [1, 2]
