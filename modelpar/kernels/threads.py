"""Threads of one rank for all kernels but BLAS, which work on panels of rows.

The kernels release the interpreter lock, so plain threads run them in parallel.  numba's ``parallel=True`` is not
used: it takes several times longer to compile and adds a second threading layer to that of BLAS.

A ``Crew`` works for one thread at a time.  Others that ask meanwhile have a pool, as without compilation.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelpar.kernels.crew import Crew

WAKING = 60_000  # nanoseconds of work that are worth another thread, which begins 3 to 40 microseconds later

_n_threads = 1
_pool: ThreadPoolExecutor | None = None
_pool_size = 0  # threads that the pool may have, in addition to the calling one
_submission = threading.Lock()
_crew: Crew | None = None
_at_work = threading.Lock()  # held by the thread that the crew works for
_of_this_thread = threading.local()  # ``n``: the number of threads for calls from this thread; None: the default


def set_threads(n: int) -> None:
    """Use ``n`` threads from now on; the calling thread is one of them.  Raises ValueError where n < 1."""
    global _n_threads
    if n < 1:
        raise ValueError(f"{n} threads were asked for, but at least one is needed")
    _n_threads = n


def get_threads() -> int:
    """Return the number of threads that :func:`split` may use when this thread calls it."""
    return getattr(_of_this_thread, "n", None) or _n_threads


@contextmanager
def limited(n: int) -> Iterator[None]:
    """Context in which :func:`split` uses ``n`` threads when this thread calls it; other threads are not affected."""
    before = getattr(_of_this_thread, "n", None)
    _of_this_thread.n = n
    try:
        yield
    finally:
        _of_this_thread.n = before


def _others(n: int) -> ThreadPoolExecutor:
    """Return a pool of at least ``n`` threads.  One that is too small is replaced; it ends when nobody uses it."""
    global _pool, _pool_size
    if _pool is None or n > _pool_size:
        _pool, _pool_size = ThreadPoolExecutor(n, thread_name_prefix="modelpar"), n
    return _pool


def crew_of_threads(name: str) -> Crew | None:
    """A crew, or None without compilation.  What it needs is loaded now, as programs that compute nothing need not."""
    from modelpar.kernels import crew

    return crew.Crew(name) if crew.compiled() else None


def _in_child() -> None:
    """Reset to one thread in a forked process: the pool's threads do not exist there, and siblings need the cores."""
    global _n_threads, _pool, _pool_size, _submission, _crew, _at_work
    _n_threads, _pool, _pool_size, _crew = 1, None, 0, None
    _submission, _at_work = threading.Lock(), threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def rows_worth_waking(nanoseconds: float) -> int:
    """Return the number of rows, each of which takes so long, that are worth another thread."""
    return max(1, int(WAKING / nanoseconds))


def rows_of(elements: int, row_length: int) -> int:
    """Return the number of rows with about ``elements`` elements: the grain of a 2-D kernel."""
    return max(1, elements // max(row_length, 1))


def split(n: int, grain: int, work: Callable[[int, int], object], align: int = 1, first: int = 0) -> None:
    """Run ``work(start, stop)`` over ``first .. first + n`` in contiguous panels of at least ``grain``, one per thread.

    Panels begin at multiples of ``align``, counted from ``first``.  Returns when all panels are done, and raises the
    first exception of any.  A single panel is a direct call; with n = 0 there is no call.  ``work`` must not call
    ``split``: its panels could wait for threads that wait for them.
    """
    if n <= 0:
        return
    n_panels = min(get_threads(), max(1, n // max(grain, align)))
    if n_panels == 1:
        work(first, first + n)
        return
    bounds = [first + n * panel // n_panels // align * align for panel in range(n_panels)] + [first + n]
    side_by_side(n_panels, lambda panel: work(bounds[panel], bounds[panel + 1]))


def side_by_side(n: int, work: Callable[[int], object]) -> None:
    """Run ``work(0)`` to ``work(n - 1)`` in ``n`` threads at the same time, so that they may wait for one another.

    Returns when all are done, and raises the first exception of any.  ``work`` must not call this itself.
    """
    global _crew
    if n > 1 and _at_work.acquire(blocking=False):
        try:
            if _crew is None:
                _crew = crew_of_threads("modelpar")
            if _crew is not None:
                _crew.side_by_side(n, work)
                return
        finally:
            if _crew is not None and not _crew.in_step:
                _crew = None  # its threads end what they were given, and are asked for nothing more
            _at_work.release()
    with _submission:  # calls from several threads take turns in the queue, or each could wait for the rest of it
        pool = _others(n - 1) if n > 1 else None
        others = [pool.submit(work, i) for i in range(1, n)] if pool else []
    try:
        work(0)
    finally:
        wait(others)
    for other in others:
        other.result()
