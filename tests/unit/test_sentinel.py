"""The process that names the first of the ranks to be killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest
from mpi4py import MPI

from modelpar.cli import sentinel

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
LIMIT = 30.0


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def watcher(processes: list[subprocess.Popen[bytes]]) -> subprocess.Popen[str]:
    words = [word for rank, process in enumerate(processes) for word in (str(process.pid), f"rank {rank} (x)")]
    command = [sys.executable, "-I", "-S", sentinel.__file__, *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("first", [0, 1, 2])
def test_the_first_to_end_is_named(first: int, sleepers: list[subprocess.Popen[bytes]]) -> None:
    watching = watcher(sleepers)
    try:
        watching.wait(1.0)
        pytest.fail("it did not wait")
    except subprocess.TimeoutExpired:
        pass
    watching.send_signal(signal.SIGSTOP)  # it wakes when all have ended, and still knows which was the first
    for rank in (first, (first + 1) % 3, (first + 2) % 3):
        sleepers[rank].kill()
        sleepers[rank].wait()
    watching.send_signal(signal.SIGCONT)
    told = watching.communicate(timeout=LIMIT)[1]
    assert told.startswith(f"modelpar: error: rank {first} (x) was killed")
    assert told.count("\n") == 1


def test_one_that_is_gone_already_is_named(sleepers: list[subprocess.Popen[bytes]]) -> None:
    sleepers[1].kill()
    sleepers[1].wait()
    assert "rank 1 (x) was killed" in watcher(sleepers).communicate(timeout=LIMIT)[1]


def test_where_a_rank_has_left_nobody_is_named(sleepers: list[subprocess.Popen[bytes]]) -> None:
    watching = watcher(sleepers)
    sentinel.end(watching.pid)
    assert watching.poll() is not None  # gone when the call comes back
    sleepers[0].kill()
    assert watching.communicate(timeout=LIMIT)[1] == ""
    sentinel.end(watching.pid)  # a second rank that leaves


def test_other_launchers_name_the_rank_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(sentinel.subprocess, "Popen", lambda *words, **options: started.append(words))
    for name in ("prterun", "srun", "bash", ""):
        monkeypatch.setattr(sentinel, "_launcher", lambda name=name: name)
        with sentinel.named_when_killed(MPI.COMM_SELF, ["rank 0"]) as leave:
            leave()
    assert not started


def test_it_ends_with_the_block(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sentinel, "_launcher", lambda: "hydra_pmi_proxy")
    kept: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*words, **options):  # type: ignore[no-untyped-def]
        kept.append(real(*words, **options))
        return kept[-1]

    monkeypatch.setattr(sentinel.subprocess, "Popen", start)
    with sentinel.named_when_killed(MPI.COMM_SELF, ["rank 0"]):
        assert kept[0].poll() is None
    assert kept[0].poll() is not None
    assert capfd.readouterr().err == ""
