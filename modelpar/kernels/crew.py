"""Threads that look for their next work for a moment before they sleep.

Between two kernels of an update a rank's other threads have nothing to do for some 50 to 900 microseconds, and a thread
takes 50 of them to be woken.  So they look at a counter meanwhile, and only sleep where nothing comes; and so does the
thread that waits for them.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from modelpar.kernels.llvm.atomics import SPINS, count_up, current, offer_core
from modelpar.kernels.llvm.vectors import compiled
from modelpar.machine.compilation import njit

__all__ = ["Crew", "compiled"]

LOOKS = 500_000  # at a counter: about a millisecond, the longest that wide layers have between two kernels

Task = Callable[[int], object]


@njit(cache=True, nogil=True)
def _ring(counter):  # type: ignore[no-untyped-def]
    count_up(counter)


@njit(cache=True, nogil=True)
def _reaches(counter, n, looks):  # type: ignore[no-untyped-def]
    """Whether the count is at least ``n`` within so many looks, at least one"""
    look = 0
    while current(counter) < n:
        look += 1
        if look >= looks:
            return False
        if look % SPINS == 0:
            offer_core()
    return True


class Bell:
    """Counts how often it was rung; one thread may wait for a count."""

    def __init__(self) -> None:
        self._count = np.zeros(16, np.int64)  # a cache line of its own
        self._counter = self._count.ctypes.data + (-self._count.ctypes.data) % 64
        self._asleep = False
        self._tokens: SimpleQueue[None] = SimpleQueue()

    def ring(self) -> None:
        _ring(self._counter)
        if self._asleep:
            self._asleep = False
            self._tokens.put(None)

    def wait(self, n: int) -> None:
        """Return once it was rung ``n`` times in all."""
        if _reaches(self._counter, n, LOOKS):
            return
        # said before the count is looked at again, which ring() changes before it asks: one of both sees the other
        self._asleep = True
        while not _reaches(self._counter, n, 1):
            self._tokens.get()
            self._asleep = True


class Worker:
    """A thread that does its tasks one after the other.

    done   is rung after each
    """

    def __init__(self, name: str, done: Bell) -> None:
        self._tasks: deque[tuple[Task, int, list[BaseException]]] = deque()
        self._bell, self._done = Bell(), done
        threading.Thread(target=self._run, name=name, daemon=True).start()

    def do(self, task: Task, i: int, errors: list[BaseException]) -> None:
        """Begin ``task(i)``, and add to the errors what it raises."""
        self._tasks.append((task, i, errors))
        self._bell.ring()

    def _run(self) -> None:
        n = 0
        while True:
            n += 1
            self._bell.wait(n)
            task, i, errors = self._tasks.popleft()
            try:
                task(i)
            except BaseException as error:
                errors.append(error)
            del task, errors  # which may hold large arrays
            self._done.ring()


class Crew:
    """Workers for one thread at a time.

    in_step   whether all that was begun is done, so that there is something to ask of them; not after an interrupt
    """

    def __init__(self, name: str) -> None:
        self._name, self._workers = name, list[Worker]()
        self._done, self._given = Bell(), 0
        self.in_step = True

    def side_by_side(self, n: int, task: Task) -> None:
        """Run ``task(0)`` to ``task(n - 1)`` at the same time, the first one in this thread.

        Returns when all are done, and raises the first exception of any, that of ``task(0)`` before others.
        """
        errors: list[BaseException] = []
        self.in_step = False
        while len(self._workers) < n - 1:
            self._workers.append(Worker(f"{self._name}_{len(self._workers)}", self._done))
        for i in range(1, n):
            self._workers[i - 1].do(task, i, errors)
            self._given += 1
        try:
            task(0)
        finally:
            self._done.wait(self._given)
            self.in_step = True
        if errors:
            raise errors[0]
