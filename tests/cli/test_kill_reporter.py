"""The process that names the first of the ranks to be killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from mpi4py import MPI

from modelpar.cli import kill_reporter

pytestmark = pytest.mark.skipif(not hasattr(os, "pidfd_open"), reason="needs Linux")
LIMIT = 30.0


@pytest.fixture
def sleepers() -> Iterator[list[subprocess.Popen[bytes]]]:
    started = [subprocess.Popen(["sleep", "100"]) for _ in range(3)]
    yield started
    for process in started:
        process.kill()
        process.wait()


def watcher(processes: list[subprocess.Popen[bytes]], *where: str, **more: Any) -> subprocess.Popen[str]:
    words = [word for rank, process in enumerate(processes) for word in (str(process.pid), f"rank {rank} (x)")]
    command = [sys.executable, "-I", "-S", kill_reporter.__file__, *(where or ["alone"]), *words]
    return subprocess.Popen(command, stderr=subprocess.PIPE, text=True, **more)


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
    printed = watching.communicate(timeout=LIMIT)[1]
    assert printed.startswith(f"modelpar: error: rank {first} (x) was killed")
    assert printed.count("\n") == 1


def test_one_that_is_gone_already_is_named(sleepers: list[subprocess.Popen[bytes]]) -> None:
    sleepers[1].kill()
    sleepers[1].wait()
    assert "rank 1 (x) was killed" in watcher(sleepers).communicate(timeout=LIMIT)[1]


def test_one_whose_connection_ends_is_named_before_one_that_is_gone(sleepers: list[subprocess.Popen[bytes]]) -> None:
    """The system closes the files of a process with threads before it is gone, and the launcher sees that first."""
    with kill_reporter._entrance() as door:
        entrance = door.getsockname()
        watching = watcher(sleepers, f"{kill_reporter.ENTRANCE}{door.fileno()}", "alone", pass_fds=[door.fileno()])
    connections = []
    for process in sleepers:
        connections.append(socket.socket(socket.AF_UNIX))
        connections[-1].connect(entrance)
        connections[-1].sendall(f"{process.pid}\n".encode())
    with socket.socket(socket.AF_UNIX) as stranger:  # says what is not to be believed, and leaves
        stranger.connect(entrance)
        stranger.sendall(b"1\n")
    with pytest.raises(subprocess.TimeoutExpired):
        watching.wait(1.0)
    watching.send_signal(signal.SIGSTOP)
    connections[2].close()
    sleepers[0].kill()
    sleepers[0].wait()
    watching.send_signal(signal.SIGCONT)
    assert "rank 2 (x) was killed" in watching.communicate(timeout=LIMIT)[1]
    for connection in connections[:2]:
        connection.close()


def wait_for(watching: subprocess.Popen[str], n: int) -> None:
    """Until a process waits for ``n`` files: those that an epoll has are in its /proc."""
    end = time.monotonic() + LIMIT
    while time.monotonic() < end:
        with suppress(OSError):
            if sum(info.read_text().count("tfd:") for info in Path(f"/proc/{watching.pid}/fdinfo").iterdir()) >= n:
                return
        time.sleep(0.02)
    pytest.fail("it does not wait")


CRASHING = r"""
import sys
from modelpar.cli import kill_reporter
connection = kill_reporter._connected("\0" + sys.argv[1])
with kill_reporter.fatal_signals_told(connection):
    import os, signal
    os.kill(os.getpid(), getattr(signal, sys.argv[2]))
"""


@pytest.mark.parametrize(
    ("number", "how"), [("SIGBUS", "had a bus error: a file that is memory-mapped"), ("SIGSEGV", "crashed by a segm"),
                        ("SIGKILL", "was killed")],
)  # fmt: skip
def test_a_crash_is_told_from_a_kill(number: str, how: str) -> None:
    with kill_reporter._entrance() as door:
        entrance = door.getsockname()
        crashing = subprocess.Popen(
            [sys.executable, "-c", "input();" + CRASHING, entrance[1:].decode(), number], stdin=-1
        )
        watching = watcher([crashing], f"{kill_reporter.ENTRANCE}{door.fileno()}", "alone", pass_fds=[door.fileno()])  # type: ignore[list-item]
    wait_for(watching, 2)  # the process, and the entrance
    crashing.communicate(b"\n", timeout=LIMIT)
    printed = watching.communicate(timeout=LIMIT)[1]
    assert printed.startswith(f"modelpar: error: rank 0 (x) {how}")
    assert printed.count("\n") == 1


def test_where_a_rank_has_left_nobody_is_named(sleepers: list[subprocess.Popen[bytes]]) -> None:
    watching = watcher(sleepers)
    kill_reporter.end(watching.pid)
    assert watching.poll() is not None  # gone when the call comes back
    sleepers[0].kill()
    assert watching.communicate(timeout=LIMIT)[1] == ""
    kill_reporter.end(watching.pid)  # a second rank that leaves


def test_other_launchers_name_the_rank_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[object] = []
    monkeypatch.setattr(kill_reporter.subprocess, "Popen", lambda *words, **options: started.append(words))
    for name in ("prterun", "srun", "bash", ""):
        monkeypatch.setattr(kill_reporter, "_launcher", lambda name=name: name)
        with kill_reporter.named_when_killed(MPI.COMM_SELF, ["rank 0"]) as leave:
            leave()
    assert not started


def test_it_ends_with_the_block(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(kill_reporter, "_launcher", lambda: "hydra_pmi_proxy")
    kept: list[subprocess.Popen[bytes]] = []
    real = subprocess.Popen

    def start(*words, **options):  # type: ignore[no-untyped-def]
        kept.append(real(*words, **options))
        return kept[-1]

    monkeypatch.setattr(kill_reporter.subprocess, "Popen", start)
    with kill_reporter.named_when_killed(MPI.COMM_SELF, ["rank 0"]):
        assert kept[0].poll() is None
    assert kept[0].poll() is not None
    assert capfd.readouterr().err == ""


@pytest.fixture
def two_nodes(sleepers: list[subprocess.Popen[bytes]]) -> Iterator[list[subprocess.Popen[str]]]:
    """The watchers of ranks 0 and 1, the host, and of rank 2, its guest."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        number, port = listener.fileno(), listener.getsockname()[1]
        host = watcher(sleepers[:2], f"host {number} secret", pass_fds=[number])
    guest = watcher(sleepers[2:], f"guest 192.0.2.1,127.0.0.1 {port} secret")
    with socket.create_connection(("127.0.0.1", port)) as stranger:  # says what is not to be believed
        stranger.sendall(b"password rank 7\n")
        time.sleep(2.0)  # the first address is nobody's
    yield [host, guest]
    for watching in (host, guest):
        watching.kill()
        watching.wait()


@pytest.mark.parametrize("first", [0, 1, 2])
def test_on_two_nodes_the_first_of_all_is_named(
    first: int, sleepers: list[subprocess.Popen[bytes]], two_nodes: list[subprocess.Popen[str]]
) -> None:
    host, guest = two_nodes
    sleepers[first].kill()
    printed = host.communicate(timeout=LIMIT)[1]
    name = "rank 0 (x)" if first == 2 else f"rank {first} (x)"  # the guest counts its own from 0
    assert printed.count("\n") == 1
    assert printed.startswith(f"modelpar: error: {name} was killed")
    for rank in range(3):
        sleepers[rank].kill()
    assert guest.communicate(timeout=LIMIT)[1] == ""


@pytest.mark.parametrize("who", [0, 1])
def test_on_two_nodes_one_that_leaves_dismisses_all(
    who: int, sleepers: list[subprocess.Popen[bytes]], two_nodes: list[subprocess.Popen[str]]
) -> None:
    kill_reporter.end(two_nodes[who].pid)
    if who == 1:
        assert two_nodes[0].wait(LIMIT) == 0
    for sleeper in sleepers:
        sleeper.kill()
    assert two_nodes[0].communicate(timeout=LIMIT)[1] == ""
    assert two_nodes[1].communicate(timeout=LIMIT)[1] == ""
