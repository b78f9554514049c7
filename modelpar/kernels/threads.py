"""Threads of one rank for kernels that are not BLAS: a pool over panels of rows.

The kernels release the interpreter lock, so plain threads run them side by side.  numba's ``parallel=True`` is not
used: it compiles several times longer and brings a second threading layer beside that of BLAS.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait

_n_threads = 1
_pool: ThreadPoolExecutor | None = None


def set_threads(n: int) -> None:
    """Use ``n`` threads from now on; the calling thread is one of them.  Raises ValueError where n < 1."""
    global _n_threads, _pool
    if n < 1:
        raise ValueError(f"{n} threads were asked for, but at least one is needed")
    if n == _n_threads:
        return
    if _pool is not None:
        _pool.shutdown(wait=True)
    _pool = ThreadPoolExecutor(n - 1, thread_name_prefix="modelpar") if n > 1 else None
    _n_threads = n


def get_threads() -> int:
    """Threads that :func:`split` may use."""
    return _n_threads


def rows_of(elements: int, row_length: int) -> int:
    """Rows that hold about ``elements`` elements: the grain of a 2-D kernel."""
    return max(1, elements // max(row_length, 1))


def split(n: int, grain: int, work: Callable[[int, int], object], align: int = 1) -> None:
    """Run ``work(start, stop)`` over ``0 .. n`` in contiguous panels of at least ``grain``, one a thread.

    Panels begin at multiples of ``align``.
    Returns when all panels are done and raises the first exception of any.  One panel is one direct call; none where
    n is 0.  ``work`` itself must not call ``split``: its panels would wait for the threads that wait for them.
    """
    if n <= 0:
        return
    n_panels = min(_n_threads, max(1, n // max(grain, align)))
    if n_panels == 1 or _pool is None:
        work(0, n)
        return
    bounds = [n * panel // n_panels // align * align for panel in range(n_panels)] + [n]
    others = [_pool.submit(work, bounds[panel], bounds[panel + 1]) for panel in range(1, n_panels)]
    try:
        work(bounds[0], bounds[1])
    finally:
        wait(others)
    for other in others:
        other.result()
