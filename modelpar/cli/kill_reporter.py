"""Names the rank that was killed, where the launcher does not: a small process beside the ranks of each node.

MPICH's ``mpiexec`` kills all ranks about a millisecond after one has ended, and then prints the process number of any
of them.  No rank has the time to report, so on each node a process that is not a rank waits for the first of its ranks
to end.  Each rank holds a connection to it, which the system closes together with those by which the launcher learns
of the end: a process with threads may be gone only after others that the launcher has killed since.  Where a rank has
no connection, or a child that has it too, the end of the process counts.

A rank that crashes says so over its connection, by Python's handler of fatal signals, so that a bus error, which is a
memory-mapped file that was truncated, is not taken for a kill.

On several nodes these processes send its name to the one on the first node, over a socket.  The first name that arrives
counts, since the launcher kills the others only later.  A rank that will end by itself dismisses the processes.  Other
launchers name the rank themselves.

This file is also what that process runs, so at its head it imports the standard library only.
"""

from __future__ import annotations

import faulthandler
import os
import secrets
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

if TYPE_CHECKING:
    from mpi4py import MPI

MUTE_LAUNCHER = "hydra"  # of MPICH: its process on each node is the parent of the ranks
PATIENCE = 1.0  # seconds in which a dismissed process is gone, and an address answers
LINE = 4096  # bytes that hold a name
ENTRANCE = "--entrance="  # of the process, before the number of the socket at which its ranks connect
FATAL = "Fatal Python error: "  # what Python's handler begins with, before the signal's name
KILLED = "was killed"
ENDS = {  # by that name
    "Bus error": "had a bus error: a file that is memory-mapped, as data are, was truncated, or a disk failed",
    "Segmentation fault": "crashed by a segmentation fault",
    "Floating point exception": "crashed by a floating point exception",
    "Illegal instruction": "crashed by an illegal instruction, perhaps of kernels compiled for another processor",
}


@contextmanager
def named_when_killed(comm: MPI.Comm, names: Sequence[str]) -> Iterator[Callable[[], None]]:
    """While the block runs, print one line that names a killed rank of ``comm``.  Entering it is collective.

    Yields a function that a rank must call before it ends the others.

    names   of the ranks of ``comm``
    """
    from mpi4py import MPI

    node_comm = comm.Split_type(MPI.COMM_TYPE_SHARED)
    is_mute = hasattr(os, "pidfd_open") and _launcher().startswith(MUTE_LAUNCHER)
    mine = node_comm.gather((os.getpid(), names[comm.rank]))
    reporter = entrance = None
    if all(comm.allgather(is_mute)):
        listener = socket.create_server(("", 0)) if comm.rank == 0 and node_comm.size < comm.size else None
        address = comm.bcast(
            None if listener is None else (_addresses(), listener.getsockname()[1], secrets.token_hex())
        )
        if mine is not None:
            words = [str(word) for pid_and_name in mine for word in pid_and_name]
            with suppress(OSError), _entrance() as door:  # where no process can be started, no rank is named
                reporter = _start(listener, address, words, door)
                entrance = door.getsockname()
        if listener is not None:
            listener.close()
    pid, entrance = node_comm.bcast((reporter.pid if reporter is not None else None, entrance))
    node_comm.Free()
    connection = _connected(entrance)

    def leave() -> None:
        """Dismiss the process: this rank will end, and the launcher may then kill the others."""
        if pid is not None:
            end(pid)

    try:
        with fatal_signals_told(connection):
            yield leave
    finally:
        leave()
        if reporter is not None:
            reporter.wait()
        if connection is not None:
            connection.close()


@contextmanager
def fatal_signals_told(connection: socket.socket | None) -> Iterator[None]:
    """Have Python's handler of fatal signals write to the connection, unless it was told to write elsewhere."""
    if connection is None or faulthandler.is_enabled():
        yield
        return
    faulthandler.enable(connection.fileno(), all_threads=False)
    try:
        yield
    finally:
        faulthandler.disable()


def _entrance() -> socket.socket:
    """Where the ranks of this node connect to its process: a name that is no file (Linux)."""
    door = socket.socket(socket.AF_UNIX)
    door.bind(f"\0modelpar-{secrets.token_hex()}")
    door.listen(socket.SOMAXCONN)
    return door


def _connected(entrance: bytes | str | None) -> socket.socket | None:
    """This rank's connection, which tells by its end that the rank has ended; None where there is nobody."""
    if entrance is None:
        return None
    connection = socket.socket(socket.AF_UNIX)
    connection.settimeout(PATIENCE)
    try:
        connection.connect(entrance)
        connection.sendall(f"{os.getpid()}\n".encode())
    except OSError:
        connection.close()
        return None
    return connection


def _start(
    listener: socket.socket | None, address: tuple[list[str], int, str] | None, words: list[str], door: socket.socket
) -> subprocess.Popen[bytes]:
    """The process of this node.  The one with the ``listener`` is the host, at whose ``address`` the others report."""
    role = "alone"
    if address is not None:
        addresses, port, token = address
        role = f"host {listener.fileno()} {token}" if listener else f"guest {','.join(addresses)} {port} {token}"
    return subprocess.Popen(
        [sys.executable, "-I", "-S", __file__, f"{ENTRANCE}{door.fileno()}", role, *words], stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL, start_new_session=True,
        pass_fds=[door.fileno(), *([listener.fileno()] if listener else [])],
    )  # fmt: skip


def _addresses() -> list[str]:
    """Addresses at which other nodes may reach this one, those of the loopback last."""
    import psutil

    addresses = [a.address for each in psutil.net_if_addrs().values() for a in each if a.family == socket.AF_INET]
    return sorted(addresses, key=lambda address: address.startswith("127."))


def end(pid: int) -> None:
    """Dismiss a process, and wait until it has ended and its files are closed.

    As long as it has one of the launcher's files open, the launcher does not see the ranks of this node as ended, and
    reports the exit statuses of ranks that it kills meanwhile instead of the abort's.
    """
    with suppress(OSError):  # it has ended already
        descriptor = os.pidfd_open(pid)
        try:
            for number in (signal.SIGTERM, signal.SIGKILL):
                signal.pidfd_send_signal(descriptor, number)
                if select.select([descriptor], [], [], PATIENCE)[0]:
                    break
        finally:
            os.close(descriptor)


def _launcher() -> str:
    """The name of this process's parent; empty where it is unknown."""
    try:
        return Path(f"/proc/{os.getppid()}/comm").read_text(encoding="utf-8").strip()
    except OSError:
        return ""


def wait_for_the_first(names: dict[int, str], role: str, entrance: socket.socket | None = None) -> None:
    """Report the name of the first process to end: print it, or, as a guest, send it to the host.

    entrance   where the processes connect, and say which they are
    """
    kind, *about = role.split()
    ended = select.epoll()  # returns the ends of processes in their order
    waiting: dict[int, str | socket.socket] = {}
    guests: list[socket.socket] = []
    host = _host(*about) if kind == "guest" else None

    def dismissed(number: int, frame: object) -> None:
        if host is not None:
            _send(host, about[-1], "")
        os._exit(0)  # at once: others may dismiss it too, while an interpreter that shuts down would complain

    signal.signal(signal.SIGTERM, dismissed)
    for pid, name in names.items():
        try:
            descriptor = os.pidfd_open(pid)
        except OSError:
            _say(f"{name} {KILLED}", host, about)
            return
        waiting[descriptor] = name
        ended.register(descriptor, select.EPOLLIN)
    if kind == "host":
        listener = socket.socket(fileno=int(about[0]))
        waiting[listener.fileno()] = listener
        ended.register(listener.fileno(), select.EPOLLIN)
    if entrance is not None:
        waiting[entrance.fileno()] = entrance
        ended.register(entrance.fileno(), select.EPOLLIN)
    connected: dict[int, str] = {}  # names of the processes that have connected, by the connection
    said: dict[str, str] = {}  # what Python's handler of fatal signals wrote, by name

    def is_of_ranks(source: str | socket.socket) -> TypeGuard[socket.socket]:
        return not isinstance(source, str) and (source is entrance or source.fileno() in connected)

    def hear(source: socket.socket) -> str:
        """Accept a rank, or what it says; the name of one that has come to its end."""
        if source is entrance:
            connection = entrance.accept()[0]
            waiting[connection.fileno()] = connection
            connected[connection.fileno()] = ""
            ended.register(connection.fileno(), select.EPOLLIN)
            return ""
        line, name = _received(source), connected[source.fileno()]
        if line is not None and name:  # the handler writes word by word
            said[name] = (said.get(name, "") + line)[:LINE]
            return ""
        number, _, more = (line or "").partition("\n")
        if not name and number.isdigit() and int(number) in names:
            name = connected[source.fileno()] = names[int(number)]
            said[name] = more
            return ""
        ended.unregister(source.fileno())
        return name

    while True:
        source = waiting[ended.poll(maxevents=1)[0][0]]
        if isinstance(source, str):
            # where this process had to wait for a core, the last words of that one have not been heard yet
            while unheard := [waiting[number] for number, _ in ended.poll(0) if is_of_ranks(waiting[number])]:
                for each in filter(is_of_ranks, unheard):
                    hear(each)
            _say(f"{source} {_how(said.get(source, ''))}", host, about)
            return
        if is_of_ranks(source):
            if name := hear(source):
                _say(f"{name} {_how(said.get(name, ''))}", host, about)
                return
            continue
        if kind == "host" and source is listener:
            guests.append(source.accept()[0])
            waiting[guests[-1].fileno()] = guests[-1]
            ended.register(guests[-1].fileno(), select.EPOLLIN)
            continue
        line = _received(source)
        if line is None or not line.startswith(about[-1] + " "):  # it has closed, or does not know the token
            ended.unregister(source.fileno())
            continue
        end_of = line.partition(" ")[2]
        if end_of:
            _say(end_of, None, about)
        return


def _how(said: str) -> str:
    """How a rank has ended whose handler of fatal signals wrote this, or nothing."""
    return next((end_of for name, end_of in ENDS.items() if said.startswith(FATAL + name)), KILLED)


def _say(end_of: str, host: socket.socket | None, about: list[str]) -> None:
    """end_of: the name of a rank, and how it has ended"""
    if host is not None:
        _send(host, about[-1], end_of)
        return
    sys.stderr.write(f"modelpar: error: {end_of}; modelpar train --resume goes on from the last checkpoint\n")
    sys.stderr.flush()


def _host(addresses: str, port: str, token: str) -> socket.socket | None:
    for address in addresses.split(","):
        with suppress(OSError):
            connected = socket.create_connection((address, int(port)), timeout=PATIENCE)
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
    return None


def _send(host: socket.socket, token: str, name: str) -> None:
    with suppress(OSError):
        host.sendall(f"{token} {name}\n".encode())


def _received(guest: socket.socket) -> str | None:
    """A line; None where there is no more."""
    with suppress(OSError, UnicodeDecodeError):
        line = guest.recv(LINE).decode()
        return line.rstrip("\n") if line else None
    return None


def main(words: list[str]) -> None:
    """words   the entrance, where there is one; the role; and of each rank its process number and name"""
    entrance = None
    if words[0].startswith(ENTRANCE):
        entrance = socket.socket(fileno=int(words.pop(0).removeprefix(ENTRANCE)))
    names = {int(pid): name for pid, name in zip(words[1::2], words[2::2], strict=True)}
    wait_for_the_first(names, words[0], entrance)


if __name__ == "__main__":
    main(sys.argv[1:])
