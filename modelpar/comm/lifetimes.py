"""Communicators and windows that nobody refers to any more are freed at a moment that all their ranks share.

``free`` and ``with`` are the usual ways to end a grid; this is the last.  Freeing a communicator is collective, and
Python's collector drops an object at another moment on every rank, in any thread, perhaps in the middle of a call of
MPI.  So an object that is dropped is only noted, and freed when the next grid is made over its ranks: these tell each
other what they have dropped, and free, in one order, what all of them have (decision 31).

The number of communicators is limited: MPICH has room for about 2000, and a grid keeps four or five.
"""

from __future__ import annotations

import gc
import os
import weakref
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from mpi4py import MPI

MANY = 50  # objects alive above which Python's collector is asked for those in circles, before another grid is made


@dataclass(frozen=True)
class Dropped:
    """An object of MPI whose owner is gone on this rank.

    key       the same on all ranks that take part in it, and that of no other object
    n_ranks   how many these are
    free      frees it; collective over them
    """

    key: str
    n_ranks: int
    free: Callable[[], None]


made: Counter[str] = Counter()  # of this process, by kind
freed: Counter[str] = Counter()
_noted: deque[Dropped] = deque()  # by finalizers: appending is all that these may do
_waiting: dict[str, Dropped] = {}  # taken from there, until all ranks have dropped them too
_look_above = MANY


class Held:
    """A communicator or window that is freed by ``free``, or when no rank refers to it any more.

    item   whoever uses it refers to this object of mpi4py
    key    as of :class:`Dropped`
    end    what comes before it is freed, given the item
    Not collective; ``free`` is, over the ranks of the item.
    """

    def __init__(
        self, item: MPI.Comm | MPI.Win, key: str, n_ranks: int, end: Callable[[Any], None] = lambda item: None
    ) -> None:
        self._kind = "communicator" if isinstance(item, MPI.Comm) else "window"
        self._end = end
        handle: Any = type(item)(item)  # type: ignore[arg-type]
        # the finalizer must not refer to the item, but may to another object with the same handle
        dropped = Dropped(key, n_ranks, lambda: self._free(handle))
        self._finalizer = weakref.finalize(item, _noted.append, dropped)
        self._finalizer.atexit = False  # MPI_Finalize frees what is left
        made[self._kind] += 1

    def _free(self, item: Any) -> None:
        self._end(item)
        item.Free()
        freed[self._kind] += 1

    def free(self) -> None:
        """Free it now; a second call does nothing.  Collective over its ranks."""
        detached = self._finalizer.detach()
        if detached is not None:
            self._free(detached[0])

    def forget(self) -> None:
        """Never free it: one of its ranks was lost.  Not collective."""
        self._finalizer.detach()


def free_dropped(comm: MPI.Comm) -> str:
    """Free what all its ranks have dropped, and return a key for new objects, alike on all ranks.  Collective.

    comm   all ranks of what is freed belong to it; what has others waits for another call
    """
    global _look_above
    alive = made.total() - freed.total() - len(_waiting) - len(_noted)
    if alive > _look_above:
        gc.collect()
        _look_above = MANY + 2 * (made.total() - freed.total() - len(_waiting) - len(_noted))
    while _noted:
        dropped = _noted.popleft()
        _waiting[dropped.key] = dropped
    mine = {key: dropped.n_ranks for key, dropped in _waiting.items()}
    told: list[tuple[str, dict[str, int]]] = comm.allgather((os.urandom(8).hex(), mine))
    n_dropped = Counter(key for _, theirs in told for key in theirs)
    for key in sorted(mine):
        if n_dropped[key] == mine[key]:
            _waiting.pop(key).free()
    return told[0][0]


def in_use() -> dict[str, int]:
    """Objects that this process has made and not freed, by kind."""
    return dict(made - freed)


def one_line(error: MPI.Exception) -> str:
    """The last line of an error of MPI, whose text is a stack of its internals."""
    lines: list[Any] = [line.strip() for line in error.Get_error_string().splitlines() if line.strip()]
    return str(lines[-1])[:160] if lines else "an error of MPI"
