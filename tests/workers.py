"""A plugin for pytest: the tests on all cores, by pytest-xdist.

The tests of a file run in one worker, for the sake of what they prepare.  Files with the mark ``jobs`` come first, that
of the jobs on ranks before all: it takes longest, and a worker that begins it late is waited for at the end.

One process does it where files or tests are named on the command line, with ``-n 0``, under a debugger, inside MPI
jobs, and without pytest-xdist.
"""

from __future__ import annotations

import os
import sys

import numba
import pytest
from threadpoolctl import threadpool_limits

from modelpar.kernels import warm_up
from tests import extent, jobs

MOST = 8  # workers, each of which imports for itself
LONGEST = "tests/test_on_ranks.py"


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads its options
def pytest_cmdline_main(config: pytest.Config) -> None:
    option = config.option
    if not config.pluginmanager.hasplugin("xdist") or is_worker(config):
        return
    if option.numprocesses is None and option.dist == "no" and not option.tx and not wants_one_process(config):
        option.numprocesses = min(cores(), MOST)
    if option.numprocesses in (0, 1):
        option.numprocesses = 0
    elif option.numprocesses and option.dist == "no":
        option.dist, option.loadscopereorder = "loadfile", False


def is_worker(config: pytest.Config) -> bool:
    return hasattr(config, "workerinput")


def wants_one_process(config: pytest.Config) -> bool:
    option = config.option
    return jobs.IN_JOB or option.usepdb or option.collectonly or bool(sys.gettrace()) or extent.names_files(config)


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Workers share the cores: the threads of a BLAS that wait for one another on one core take many times as long."""
    if is_worker(config):
        threadpool_limits(max(1, cores() // config.workerinput["workercount"]), user_api="blas")


def pytest_sessionstart(session: pytest.Session) -> None:
    """Each worker compiles another part of the kernels, where all tests run: in the first tests one worker would wait
    for what the other compiles."""
    if not is_worker(session.config) or extent.names_files(session.config) or numba.config.DISABLE_JIT:
        return
    worker = session.config.workerinput
    tasks = warm_up.tasks("float32")
    for turn in sorted({task.round for task in tasks}):
        parts = warm_up.distribute([task for task in tasks if task.round == turn], worker["workercount"])
        for task in parts[int(worker["workerid"].removeprefix("gw"))]:
            task.run()


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=_turn)  # stable: the order of files stays


def _turn(item: pytest.Item) -> int:
    return 0 if item.nodeid.startswith(LONGEST) else 1 if item.get_closest_marker("jobs") else 2
