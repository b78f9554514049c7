"""A plugin for pytest inside an MPI job: every rank runs the same tests, rank 0 reports, no rank is left waiting.

A test that fails on one rank only would leave the others in their next collective call for ever; so the rank prints
its failure and aborts all.  Where MODELPAR_TEST_PROGRESS names a file, ranks note there which test rank 0 begins, which
one failed, and the end: whoever started the job sees where it failed, and that it has not stopped moving.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable

import pytest
from _pytest.terminal import TerminalReporter
from mpi4py import MPI

PROGRESS = "MODELPAR_TEST_PROGRESS"
BEGUN, FAILED, FINISHED = "begun ", "failed ", "finished"  # lines of that file; the first two name a test


@pytest.fixture(scope="session")
def comm() -> MPI.Intracomm:
    """All ranks of the job."""
    return MPI.COMM_WORLD


@pytest.fixture
def agree(comm: MPI.Intracomm) -> Callable[..., None]:
    """``agree(condition, message="")``: an assertion about all ranks, which fails on all or on none.  Collective."""

    def agree(condition: object, message: str = "") -> None:
        __tracebackhide__ = True
        holds = comm.allgather(bool(condition))
        wrong = [str(rank) for rank, fine in enumerate(holds) if not fine]
        if wrong:
            ranks = "rank" if len(wrong) == 1 else "ranks"
            pytest.fail(f"{message or 'agree'}: not so on {ranks} {', '.join(wrong)} of {comm.size}")

    return agree


@pytest.hookimpl(trylast=True)
def pytest_configure(config: pytest.Config) -> None:
    """Only rank 0 reports what passes; the others write their report to nowhere."""
    if MPI.COMM_WORLD.rank != 0:
        reporter = config.pluginmanager.unregister(name="terminalreporter")
        if reporter is not None:
            config.pluginmanager.register(TerminalReporter(config, open(os.devnull, "w")), "terminalreporter")  # noqa: SIM115


def pytest_runtest_logstart(nodeid: str) -> None:
    if MPI.COMM_WORLD.rank == 0:
        note(BEGUN + nodeid)


def pytest_sessionfinish() -> None:
    if MPI.COMM_WORLD.rank == 0:
        note(FINISHED)


def note(line: str) -> None:
    """A line for whoever started the job."""
    path = os.environ.get(PROGRESS)
    if path:
        with open(path, "a") as file:
            print(line, file=file)


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    if report.failed:
        abort(report)


def pytest_collectreport(report: pytest.CollectReport) -> None:
    if report.failed:
        abort(report)


def pytest_internalerror(excrepr: object) -> None:
    print(f"rank {MPI.COMM_WORLD.rank}: pytest itself failed\n{excrepr}", file=sys.__stderr__, flush=True)
    MPI.COMM_WORLD.Abort(3)


def abort(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Print the failure and end the job on all ranks."""
    world = MPI.COMM_WORLD
    head = f"\nrank {world.rank} of {world.size} failed in {report.nodeid}"
    parts = [head, report.longreprtext, *(f"{name}\n{text}" for name, text in report.sections)]
    print("\n".join(parts), file=sys.__stderr__, flush=True)
    note(FAILED + report.nodeid)
    time.sleep(0.3)  # ranks that fail together get their word in, and the launcher forwards what was printed
    world.Abort(1)
