"""What a rank says of itself, what is reported of all, and when; a job that stops is in tests/cli/test_failures.py.

Modules: modelpar/comm/status
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import pytest
from mpi4py import MPI

from modelpar.comm import watchdog
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.status import Status
from modelpar.comm.watchdog import STALLED, Watchdog, names_of_ranks, report
from modelpar.ownership.layout import UnitLayout

LIMIT = 30.0  # seconds in which what must happen has to happen


def test_a_wait_is_seen_and_is_a_beat() -> None:
    status = Status()
    status.begin_step("pretrain", 1, epoch=2, step=17)
    before = status.beat
    with status.waiting("gather"):
        assert status.beat == before
        assert status.describe().startswith("RBM 1, epoch 2, step 17, training: waits in gather for ")
    assert status.beat == before + 1
    assert status.describe() == "RBM 1, epoch 2, step 17, training: waits in none of the verbs"


def test_phases_nest_and_end_whatever_happens() -> None:
    status = Status()
    with suppress(ZeroDivisionError), status.phase("compiling", steady=True):
        assert (status.doing, status.steady) == ("compiling", True)
        with status.phase("saving"):
            assert (status.doing, status.steady) == ("saving", False)
        assert (status.doing, status.steady) == ("compiling", True)
        raise ZeroDivisionError
    assert (status.doing, status.steady) == ("starting", False)
    assert status.beat == 4


def test_every_verb_of_an_exchange_is_a_beat() -> None:
    traffic = Traffic()
    exchange = Exchange(MPI.COMM_SELF, UnitLayout.from_owners(np.zeros(3, int), 1), traffic)
    values = np.ones((3, 2))
    for n, verb in enumerate((exchange.gather, exchange.reduce, exchange.sum_over_shards), 1):
        verb(values)
        assert (traffic.status.beat, traffic.status.verb) == (n, "")


NAMES = ["rank 0 (a)", "rank 1 (b)", "rank 2 (c)"]


@pytest.mark.parametrize(
    ("expected", "suspect"),
    [
        ({0: "x: waits in reduce for 9 s", 2: "x: waits in gather for 9 s"}, "suspect: rank 1: no answer"),
        ({0: "x: waits in none of the verbs", 2: "x: waits in gather for 9 s"}, "suspect: rank 1: no answer"),
        (
            {0: "x: waits in reduce", 1: "x: waits in reduce", 2: "x: waits in none of the verbs"},
            "suspect: rank 2: the",
        ),
    ],
)
def test_the_report_names_the_suspect(expected: dict[int, str], suspect: str) -> None:
    lines = report(NAMES, expected, 60.0).splitlines()
    assert lines[0].startswith("modelpar: error: no step for 60 s")
    assert [line.strip() for line in lines[1:4]] == [
        f"{n}: {expected.get(i, 'no answer')}" for i, n in enumerate(NAMES)
    ]
    assert lines[4].startswith(suspect)
    assert len(lines) == 5


def test_where_all_wait_nobody_is_accused() -> None:
    assert "suspect" not in report(NAMES, dict.fromkeys(range(3), "x: waits in reduce for 9 s"), 60.0)


@contextmanager
def watched(status: Status, timeout: float) -> Iterator[threading.Event]:
    """The event is set when the watchdog ends the job."""
    ended = threading.Event()
    statuses: list[int] = []

    def end(code: int) -> None:
        statuses.append(code)
        ended.set()

    with Watchdog(MPI.COMM_SELF, status, timeout, names=names_of_ranks(MPI.COMM_SELF, "alone"), end=end):
        yield ended
    assert set(statuses) <= {STALLED}


def test_no_step_ends_the_job(capfd: pytest.CaptureFixture[str]) -> None:
    status = Status()
    with watched(status, 0.2) as ended, status.waiting("fetch"):
        assert ended.wait(LIMIT)
    printed = capfd.readouterr().err
    assert "modelpar: error: no step for 0.2 s" in printed
    assert "rank 0 (alone, process " in printed
    assert "starting: waits in fetch for " in printed


@pytest.mark.parametrize("how", ["it moves", "it may last"])
def test_what_moves_goes_on(how: str, capfd: pytest.CaptureFixture[str]) -> None:
    status = Status()
    until = time.monotonic() + 3
    with watched(status, 1.0) as ended, status.phase("compiling", steady=how == "it may last"):
        while time.monotonic() < until:
            status.beat += how == "it moves"
            time.sleep(0.01)
        assert not ended.is_set()
    assert capfd.readouterr().err == ""


def test_a_timeout_of_0_starts_nothing() -> None:
    before = threading.active_count()
    with watched(Status(), 0.0):
        assert threading.active_count() == before


def test_without_threads_in_mpi_it_says_so_once(monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    say: Callable[[str], None] = printed.append
    monkeypatch.setattr(watchdog.MPI, "Query_thread", lambda: MPI.THREAD_SERIALIZED)
    before = threading.active_count()
    with Watchdog(MPI.COMM_SELF, Status(), 1.0, names=["rank 0"], say=say):
        assert threading.active_count() == before
    assert len(printed) == 1
    assert "--stall-timeout is off" in printed[0]
