"""SIGTERM and SIGUSR1 ask a run to end: it saves a checkpoint at the next step, and all ranks end with status 4.

Schedulers send these some time before they kill a job, to all ranks or to the launcher, which may pass them on; one
rank is enough.  While there are steps to come the signal is noted, and every now and then all ranks look together
whether one of them has such a note.  Before the first step and after the last the job ends at once, and so it does
at a second signal.

The interpreter runs handlers of signals between two instructions of the main thread only, which may be inside MPI for
long.  So a thread learns of them, from the descriptor that the interpreter writes to as a signal arrives.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np
from mpi4py import MPI

from modelpar.collective.ending import LAUNCHER, end_job, is_reporter
from modelpar.comm.status import Status
from modelpar.errors import STOPPED, StoppedError, raised_by

SIGNALS = (signal.SIGTERM, signal.SIGUSR1)
ONE_NOTICE = 1.0  # seconds in which signals count as one: a launcher may pass on what its ranks got as well
INTERVAL = 0.1  # seconds between two moments at which the ranks look together, where steps are shorter
APART = 10  # of these intervals, where replicas are not alike before: saving makes them so
FASTEST = 10  # times as many steps as before are made until the next look, at most
OVER = 0  # written to the thread: no signal has this number


class Stopping:
    """Notes signals while its block runs.  Making one, and the block, are not collective.

    comm   all ranks of the job, servers included

    In another thread than the main one, which alone may handle signals, it does nothing.
    """

    def __init__(self, comm: MPI.Comm) -> None:
        self._comm = comm
        self._status = Status()
        self._lock = threading.Lock()
        self._steps_to_come = False  # whether a signal can wait for the next step
        self._saved = ""  # a checkpoint that holds all that this run has done, where there is one
        self._first: float | None = None  # moment of the first signal
        self._leave: Callable[[], None] = lambda: None
        self._thread: threading.Thread | None = None
        self._pipe = (-1, -1)
        self._before: dict[signal.Signals, object] = {}
        self._n_steps, self._every, self._looked = 0, 1, time.monotonic()

    def watch(self, status: Status, leave: Callable[[], None]) -> None:
        """Note signals in ``status`` from now on, with what was noted before.  The same on all ranks.

        leave   called before the job is ended at once
        """
        with self._lock:
            status.stop = self._status.stop
            self._status, self._leave = status, leave
        # when a rank is lost, the others may be a step apart: they count anew, or they would wait in different steps
        self._n_steps, self._every, self._looked = 0, 1, time.monotonic()

    # -- signals -----------------------------------------------------------------------------------------------------

    def __enter__(self) -> Stopping:
        if threading.current_thread() is not threading.main_thread():
            return self
        self._pipe = os.pipe()
        os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        self._before = {number: signal.signal(number, lambda *_: None) for number in SIGNALS}
        self._thread = threading.Thread(target=self._listen, name="signals", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._thread is None:
            return
        signal.set_wakeup_fd(-1)
        for number, before in self._before.items():
            # what was asked for is being done
            signal.signal(number, signal.SIG_IGN if self._first is not None else before)  # type: ignore[arg-type]
        os.write(self._pipe[1], bytes([OVER]))
        self._thread.join(ONE_NOTICE)
        for descriptor in self._pipe if not self._thread.is_alive() else ():
            os.close(descriptor)

    def _listen(self) -> None:
        while (number := os.read(self._pipe[0], 1)[0]) != OVER:
            if number in SIGNALS:
                self._note(number)

    def _note(self, number: int) -> None:
        now = time.monotonic()
        if self._first is not None and now - self._first < ONE_NOTICE:
            return
        with self._lock:
            if self._steps_to_come and self._first is None:
                self._first, self._status.stop = now, number
                return
            first, self._first = self._first, now
        self._end_at_once(number, again=first is not None)

    def _end_at_once(self, number: int, *, again: bool) -> None:
        """Not collective: the other ranks may be waiting for this one."""
        name = signal.Signals(number).name
        status, kind = 128 + number, "error"
        if again:
            text = f"ended at once by a second signal, {name}; --resume goes on from the last checkpoint"
        elif self._saved:
            status, kind, text = STOPPED, "stopped", _saved(name, self._saved)
        else:
            text = f"ended by {name} before the first step; nothing was changed"
        can_ask = MPI.Query_thread() == MPI.THREAD_MULTIPLE
        if is_reporter(self._comm) if can_ask else self._comm.rank == 0:
            sys.stderr.write(f"modelpar: {kind}: {text}\n")
            sys.stderr.flush()
        else:
            time.sleep(LAUNCHER)  # another rank is about to end the job
        self._leave()
        if can_ask:
            end_job(self._comm, status)
        os._exit(status)

    # -- the run -----------------------------------------------------------------------------------------------------

    @contextmanager
    def steps(self, end: str) -> Iterator[None]:
        """A block with steps to come, at which ``is_due`` is asked, and that writes ``end`` last.  Not collective."""
        with self._lock:
            self._steps_to_come = True
        yield  # an exception ends the run: signals have nothing to add to it
        with self._lock:
            self._steps_to_come, self._saved = False, end

    def is_due(self, comm: MPI.Comm, *, alike: bool) -> bool:
        """Whether a rank of ``comm`` was asked to end: the ranks look every now and then.  Collective.

        alike   whether all replicas have the same parameters; the same on all ranks
        """
        self._n_steps += 1
        if self._n_steps < self._every * (1 if alike else APART):
            return False
        now = time.monotonic()
        # the largest of these decide, so that all ranks look again after as many steps
        both = np.array([self._status.stop, (now - self._looked) / self._n_steps])
        with self._status.waiting("look for signals"):
            comm.Allreduce(MPI.IN_PLACE, both, MPI.MAX)
        fitting = int(INTERVAL / max(both[1], 1e-9))
        self._every = max(1, min(fitting, FASTEST * self._every))
        self._n_steps, self._looked = 0, now
        return self._know(int(both[0]))

    def _know(self, number: int) -> bool:
        """Note what a rank was asked by; 0 changes nothing, since a signal may have come to this one meanwhile."""
        if number:
            self._status.stop = self._status.stop or number
        return number > 0

    def end_saved(self, path: str, comm: MPI.Comm) -> None:
        """The run ends as it was asked to, after ``path`` was written.  Raises StoppedError on every rank."""
        raise raised_by(StoppedError(_saved(signal.Signals(self._status.stop).name, path)), comm.size)

    def has_trained(self, comm: MPI.Comm) -> None:
        """No more steps are to come: from now on signals end the job at once, with status 4.

        Collective.  Raises StoppedError, on every rank, where one was asked to end before.
        """
        if self._know(comm.allreduce(self._status.stop, MPI.MAX)):
            self.end_saved(self._saved, comm)


def _saved(name: str, path: str) -> str:
    return f"{name} was received; all is saved in {path}, and modelpar train --resume goes on from there"
