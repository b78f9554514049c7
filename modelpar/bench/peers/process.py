"""Processes of peers: the benchmark starts them, asks them, gives up after a time limit, and always ends them."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from modelpar.bench.peers.kinds import KINDS, missing
from modelpar.errors import ModelparError

Size = tuple[int, int, int]  # batch, visible units, hidden units

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
# Some hosts set the core type to an older processor, which halves the speed of products; the waiting policies could
# let idle pools spin through the rounds of the other sides.
CLEARED = ("OPENBLAS_CORETYPE", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME")
MPI_PREFIXES = ("PMI_", "PMIX_", "OMPI_", "PRTE_", "HYDI_", "HYDRA_", "MPI_")  # a peer is not a rank of this job
LEAVING = 5.0  # seconds that a process has for ending by itself


class PeerError(ModelparError):
    """A peer that is not installed, does not run here, or stopped answering."""


def environment(threads: int) -> dict[str, str]:
    """The environment of a peer's process: this one's without the variables of MPI, and with so many threads."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(MPI_PREFIXES)}
    for name in CLEARED:
        kept.pop(name, None)
    root = Path(__file__).parents[3]
    if root.name not in ("site-packages", "dist-packages"):  # a source tree, which need not be installed
        kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(root), kept.get("PYTHONPATH")]))
    # One compiling thread: a pool of compilers would outlive the compilation and idle beside the measurements.
    return {
        **kept, **dict.fromkeys(THREADS, str(threads)),
        "TORCHINDUCTOR_COMPILE_THREADS": "1", "GLOO_SOCKET_IFNAME": kept.get("GLOO_SOCKET_IFNAME", "lo"),
    }  # fmt: skip


class Worker:
    """One process that answers lines of text with lines of JSON."""

    def __init__(self, name: str, command: list[str], threads: int) -> None:
        self.name = name
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - a pipe that nobody reads would fill up and block
        self._unread = b""
        # A session of its own: whatever the process starts is ended together with it.
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._stderr, env=environment(threads),
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._in, self._out = self._process.stdin, self._process.stdout
        self._ended = False

    def ask(self, line: str, limit: float) -> dict[str, Any]:
        """The answer to one line.  Raises PeerError where it does not come within ``limit`` seconds."""
        if self._ended:
            raise PeerError(f"{self.name}: its process was ended")
        try:
            self._in.write(line.encode() + b"\n")
            self._in.flush()
        except OSError:
            raise PeerError(self._death()) from None
        return self.read(limit)

    def read(self, limit: float) -> dict[str, Any]:
        """The next answer of the process.  Raises PeerError as ``ask``."""
        until = time.monotonic() + limit
        while b"\n" not in self._unread:
            if not self._wait(until):
                self.end(at_once=True)
                raise PeerError(f"{self.name}: no answer within {limit:g} s; its process was ended")
            more = self._read_some()
            if not more:
                raise PeerError(self._death())
            self._unread += more
        line, self._unread = self._unread.split(b"\n", 1)
        try:
            answer = json.loads(line)
        except ValueError:
            self.end(at_once=True)
            raise PeerError(f"{self.name}: answered {line[:80]!r}; its process was ended") from None
        if "error" in answer:
            self.end(at_once=True)
            raise PeerError(f"{self.name}: {answer['error']}")
        return dict(answer)

    def end(self, *, at_once: bool = False) -> None:
        """End the process and all that it started.  May be called again."""
        if self._ended:
            return
        self._ended = True
        if not at_once:
            with contextlib.suppress(OSError):
                self._in.write(b"quit\n")
                self._in.flush()
            until = time.monotonic() + LEAVING
            while self._wait(until) and self._read_some():
                pass
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(max(0.0, until - time.monotonic()))
        with contextlib.suppress(OSError):  # the whole group may have ended
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for stream in (self._in, self._out, self._stderr):
            with contextlib.suppress(OSError):
                stream.close()

    def _wait(self, until: float) -> bool:
        """Whether there is something to read before that time, the end of the output included."""
        with selectors.DefaultSelector() as selector:
            selector.register(self._out, selectors.EVENT_READ)
            return bool(selector.select(max(0.0, until - time.monotonic())))

    def _read_some(self) -> bytes:
        return os.read(self._out.fileno(), 1 << 16)

    def _death(self) -> str:
        """One line on how it ended, with the last line that it wrote to stderr."""
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(LEAVING)  # its pipe is closed, so it is about to end
        code = self._process.returncode
        self._stderr.seek(0)
        lines = [line.strip() for line in self._stderr.read().decode(errors="replace").splitlines()]
        self.end(at_once=True)
        how = f"ended by signal {-code}" if code is not None and code < 0 else f"ended with status {code}"
        return ": ".join([self.name, f"its process {how}", *[line[:300] for line in lines if line][-1:]])


class Peer:
    """One peer with a network of its own in the memory of its process."""

    def __init__(self, name: str, worker: Worker, answer_limit: float) -> None:
        self.name, self.note = name, KINDS[name].note
        self._worker, self._answer_limit = worker, answer_limit

    def round(self, seconds: float) -> float:
        """Samples a second, over steps that take at least ``seconds``.

        Raises PeerError where the process died, or is silent for longer than its time limit.
        """
        answer = self._worker.ask(f"go {seconds}", self._answer_limit + 10 * seconds)
        return float(answer["samples_per_second"])


@contextmanager
def peer(
    name: str, size: Size, threads: int, *, more: Sequence[str] = (), start_limit: float = 300.0,
    answer_limit: float = 60.0,
) -> Iterator[Peer]:  # fmt: skip
    """A peer that is warmed up and waits, with ``threads`` threads in all; its process ends with the block.

    more   further options of its program (``worker.parse``)
    Raises PeerError, one line, where it is not installed or does not run here.
    """
    absent = missing([name])
    if absent:
        raise PeerError(absent[name])
    kind = KINDS[name]
    own_threads = max(1, threads // kind.ranks)
    options = ["--size", "x".join(map(str, size)), "--threads", str(own_threads), "--variant", kind.variant, *more]
    with _started(name, kind.program, options, own_threads, start_limit) as worker:
        yield Peer(name, worker, answer_limit)


@contextmanager
def sgemm_pair(
    *, start_limit: float = 60.0, answer_limit: float = 30.0
) -> Iterator[Callable[[float], tuple[float, float]]]:
    """A function ``seconds -> (GFLOP/s with 1 thread, with 2)`` of NumPy's SGEMM, each for at least ``seconds``.

    Raises PeerError as ``peer``.
    """
    with _started("sgemm", "sgemm", ["--threads", "2"], 2, start_limit) as worker:

        def measure(seconds: float) -> tuple[float, float]:
            one, two = worker.ask(f"go {seconds}", answer_limit + 20 * seconds)["gflops"]
            return float(one), float(two)

        yield measure


@contextmanager
def _started(name: str, program: str, options: list[str], threads: int, limit: float) -> Iterator[Worker]:
    worker = Worker(name, [sys.executable, "-m", f"modelpar.bench.peers.{program}", *options], threads)
    try:
        worker.read(limit)  # it says that it is warm
        yield worker
    finally:
        worker.end()
