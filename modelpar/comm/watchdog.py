"""Ends a job that stands still, and reports the state of every rank: a thread beside the one that trains.

The thread sleeps, and checks at intervals whether ``Status.beat`` has grown.  Where it has not for ``timeout`` seconds,
it asks the threads of all other ranks, on a communicator of its own.  Each answers, whatever its rank waits in, unless
its process is stopped, dead, or cut off.  The lowest of the ranks that stand still prints what all have answered and
ends the job.  While some ranks move and all answer, the job goes on: replicas may go at their own pace.
"""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from types import TracebackType
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.collective.ending import AGREED_PATIENCE, abort, all_raise
from modelpar.comm.status import Status
from modelpar.errors import ModelparError

STALLED = 3  # exit status of a job that stood still
N_INTERVALS = 20  # in one timeout; but none is longer than LONGEST_INTERVAL seconds
LONGEST_INTERVAL = 5.0
SHORT = 5e-4  # seconds between two looks whether the other ranks have come to the end
GRACE = 2.0  # seconds in which an answer must come, at least: others may take two checks to receive the question
TICK = 0.05  # seconds between checks while answers are waited for
ASK, ANSWER = 1, 2  # tags


@dataclass(frozen=True)
class Answer:
    """The answer of one rank about its own state."""

    alarm: int  # the question it answers, as counted by the rank that asked
    still: bool  # it has not moved for half of the timeout or more, and asks the others itself
    steady: bool  # what it does may take long without a beat
    text: str


def names_of_ranks(comm: MPI.Comm, role: str) -> list[str]:
    """``rank 3 (replica 1, shard 1, process 4242 on node7)`` for each rank.  Collective.

    role   of this rank in the grid
    """
    return comm.allgather(f"rank {comm.rank} ({role}, process {os.getpid()} on {MPI.Get_processor_name()})")


class Watchdog:
    """Watches ``status`` while the block runs; a ``timeout`` of 0 watches nothing.  Making one is collective.

    names    the name of each rank in a report, see ``names_of_ranks``
    say      called with a warning, where MPI does not let a second thread communicate
    leave    called before the job is ended
    end      ends the job; for tests

    Until a rank stands still, its thread makes one call of MPI per interval, a probe for questions of others.
    """

    def __init__(
        self, comm: MPI.Comm, status: Status, timeout: float, *, names: Sequence[str],
        say: Callable[[str], None] = lambda text: None, leave: Callable[[], None] = lambda: None,
        end: Callable[[int], None] | None = None,
    ) -> None:  # fmt: skip
        self.status, self.timeout, self.names = status, timeout, names
        self._leave = leave
        self.interval = min(LONGEST_INTERVAL, timeout / N_INTERVALS)
        self.grace = max(GRACE, 3 * self.interval)
        self._training = threading.get_ident()
        self._comm: MPI.Comm | None = None
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._alarm = 0
        self._sent: list[MPI.Request] = []
        self._n_sent, self._n_received = [0] * comm.size, [0] * comm.size  # messages, by rank
        if timeout <= 0:
            return
        if comm.allreduce(MPI.Query_thread(), MPI.MIN) < MPI.THREAD_MULTIPLE:
            say("warning: this MPI lets no second thread communicate: --stall-timeout is off")
            return
        self._comm = comm.Dup()
        self._end = end or partial(abort, self._comm)
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)
        self._thread.start()

    def __enter__(self) -> Watchdog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        if self._thread is None or self._comm is None:
            return
        self._thread.join(self.grace)  # a thread that does not come back is inside MPI, and a daemon
        # after an exception on this rank alone the others are not there to free with
        together = error is None or (isinstance(error, ModelparError) and all_raise(self._comm, error))
        with suppress(MPI.Exception):  # a rank was lost
            if together and self._receive_all():
                self._comm.Free()

    def _receive_all(self) -> bool:
        """Receive what was sent to this rank and nobody reads any more; whether no thread is left.  Collective.

        A message that is on its way when a communicator is freed comes to the next one of the same number, where Open
        MPI takes it for one of that, and waits for another for ever.  Where a rank does not come, or its thread is
        still inside MPI, the communicator is kept.
        """
        assert self._comm is not None
        assert self._thread is not None
        alive = self._thread.is_alive()
        told, deadline = np.array([(alive, n) for n in self._n_sent]), time.monotonic() + AGREED_PATIENCE
        self._told = np.empty_like(told), told  # for as long as MPI may use them
        arrived = self._comm.Ialltoall(told, self._told[0])
        while not arrived.Test():
            if time.monotonic() > deadline:
                return False
            time.sleep(SHORT)
        if self._told[0][:, 0].any():
            return False
        for rank, n in enumerate(self._told[0][:, 1]):
            for _ in range(n - self._n_received[rank]):
                self._received(rank, MPI.ANY_TAG)
        MPI.Request.Waitall(self._sent)
        return True

    # -- in the thread -----------------------------------------------------------------------------------------------

    def _watch(self) -> None:
        beat, moved = self.status.beat, time.monotonic()
        try:
            while not self._over.wait(self.interval):
                if self.status.beat != beat:
                    beat, moved = self.status.beat, time.monotonic()
                age = time.monotonic() - moved
                asked = self._answer(still=age > self.timeout / 2)
                if age > self.timeout or (asked and age > self.timeout / 2):
                    self._raise_alarm(beat)
                    moved = time.monotonic()  # it was a false alarm
        except MPI.Exception:
            if not self._over.is_set():  # pragma: no cover - a rank is gone; the thread that trains reports it
                return

    def _answer(self, *, still: bool) -> bool:
        """Answer the questions that have come; return whether there was one."""
        assert self._comm is not None
        status, answered = MPI.Status(), False
        while self._comm.Iprobe(MPI.ANY_SOURCE, ASK, status):
            alarm = self._received(status.source, ASK)
            self._send(self._mine(alarm, still), status.source, ANSWER)
            answered = True
        return answered

    def _send(self, message: object, rank: int, tag: int) -> None:
        """Send without waiting: the receiver may be stopped.  A rank that is gone does not answer."""
        assert self._comm is not None
        self._sent = [request for request in self._sent if not request.Test()]
        with suppress(MPI.Exception):
            self._sent.append(self._comm.isend(message, rank, tag))
            self._n_sent[rank] += 1

    def _received(self, rank: int, tag: int) -> Any:
        assert self._comm is not None
        self._n_received[rank] += 1
        return self._comm.recv(source=rank, tag=tag)

    def _raise_alarm(self, beat: int) -> None:
        """Ask all, and end the job, unless this rank moves again or all answer and some of them move."""
        assert self._comm is not None
        self._alarm += 1
        me, size = self._comm.rank, self._comm.size
        began = time.monotonic()
        # where the thread cannot leave MPI, because another process was stopped while it held a lock of it
        fallback = threading.Timer(self.grace * (size + 2), self._report, [{me: self._mine(0, True)}])
        fallback.daemon = True
        fallback.start()
        answers = {me: self._mine(self._alarm, True)}
        for rank in range(size):
            if rank != me:
                self._send(self._alarm, rank, ASK)
        while True:
            if self.status.beat != beat or self._over.is_set():
                break
            self._answer(still=True)
            self._collect(answers)
            n_silent = size - len(answers)
            waited = time.monotonic() - began
            if not n_silent and not all(answer.still and not answer.steady for answer in answers.values()):
                break
            # one rank after the other, so that one reports: the first may have been stopped after it answered
            n_before = sum(answer.still for rank, answer in answers.items() if rank < me)
            if waited > self.grace * (n_before + 1) or (not n_silent and n_before == 0):
                self._report(answers)
                break
            time.sleep(TICK)
        fallback.cancel()

    def _collect(self, answers: dict[int, Answer]) -> None:
        assert self._comm is not None
        status = MPI.Status()
        while self._comm.Iprobe(MPI.ANY_SOURCE, ANSWER, status):
            answer: Answer = self._received(status.source, ANSWER)
            if answer.alarm == self._alarm:  # not to an earlier question
                answers[status.source] = answer

    def _report(self, answers: dict[int, Answer]) -> None:
        sys.stderr.write(report(self.names, {rank: answer.text for rank, answer in answers.items()}, self.timeout))
        sys.stderr.flush()
        self._leave()
        self._end(STALLED)

    def _mine(self, alarm: int, still: bool) -> Answer:
        return Answer(alarm, still, self.status.steady, self._state())

    def _state(self) -> str:
        """The status, and the innermost line of modelpar in the stack of the training thread."""
        frame = sys._current_frames().get(self._training)
        own = [f for f in traceback.extract_stack(frame) if f"{os.sep}modelpar{os.sep}" in f.filename] if frame else []
        inside = ""
        if own:
            path = own[-1].filename.rpartition(f"{os.sep}modelpar{os.sep}")[2]
            inside = f", in {own[-1].name} ({path}:{own[-1].lineno})"
        return self.status.describe() + inside


def report(names: Sequence[str], answers: dict[int, str], timeout: float) -> str:
    """A report of all ranks' states and of the suspects: those that gave no answer, else those outside any verb."""
    silent = [rank for rank in range(len(names)) if rank not in answers]
    computing = [rank for rank, text in answers.items() if "waits in none" in text]
    lines = [f"modelpar: error: no step for {timeout:g} s (--stall-timeout); the job is ended"]
    for rank, name in enumerate(names):
        lines.append(f"  {name}: {answers.get(rank, 'no answer')}")
    if silent:
        named = ", ".join(map(str, silent))
        lines.append(f"suspect: rank {named}: no answer, so stopped, dead, or cut off from the others")
    elif computing and len(computing) < len(names):
        lines.append(f"suspect: rank {', '.join(map(str, sorted(computing)))}: the others wait for it")
    return "\n".join(lines) + "\n"
