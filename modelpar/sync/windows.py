"""Vectors and counters in MPI windows, spread over the ranks that host them, and changed by atomic operations only.

Every element is read and changed by ``Get_accumulate``, ``Accumulate`` or ``Fetch_and_op``: MPI makes those atomic for
each element, whoever else changes it at the same time (MPI 4.1, section 12.7.1), and so nothing is lost.  A ``Put`` or
``Get`` of an element that another rank may change would be neither.

A host need not take part.  On one node both MPIs act on shared memory; between nodes the request waits until the host
enters MPI, so a host that computes has a :class:`modelpar.sync.progress.Progress` that does.

Where ranks may be lost, one more thing is needed: an MPI library that acts on shared memory takes a lock of its own
meanwhile, and whoever is killed just then leaves it locked for ever.  So the ranks take turns at a host's vectors by a
counter of ours, and whoever waits for a turn can check that the holder still runs.  Counters have a window of
their own, whose operations take some hundred nanoseconds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

from modelpar.comm import lifetimes
from modelpar.errors import warn
from modelpar.machine.memory import shared_memory_left

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

PIECE = 1 << 18  # elements of one operation: bounds what MPI allocates for it
COUNTER = 8  # bytes
SHARE_OF_SHARED = 0.8  # of a node's shared memory that windows may take: MPI's own messages need some
LITTLE = (
    "the shared memory of a node (/dev/shm) does not hold the parameters of --sync server; its ranks keep them apart, "
    "which makes fetches and pushes slow: give the container more (docker run --shm-size), or use another --sync"
)
NAP = 0.00005  # seconds between two checks whether a host is free


class SharedArrays:
    """``n_vectors`` vectors of ``n`` elements and ``n_counters`` integers, all zero at first.

    hosts         ranks of ``comm`` that host a part of each vector; the first also hosts the counters
    dtype         float32 or float64
    check_ranks   called while waiting for a turn: raises where a rank was lost.  None where ranks are not lost
    n_others      other arrays of this size that are made on the same node meanwhile
    shared        whether the ranks of a node reach each other's parts directly: where its memory for that does not hold
                  them, MPI would take it all the same, and the first write would kill the rank

    Making one is collective over ``comm``, and so is ``free``; windows that nobody refers to any more are freed when
    others, or a grid, are made over their ranks (``comm.lifetimes``).  All other methods are one rank's own, and done
    when they return: whoever reads later, reads what was written.
    """

    def __init__(
        self, comm: MPI.Comm, hosts: list[int], n: int, dtype: npt.DTypeLike, n_vectors: int, n_counters: int,
        check_ranks: Callable[[], None] | None = None, n_others: int = 0,
    ) -> None:  # fmt: skip
        self.n, self.dtype, self._hosts, self._me = n, np.dtype(dtype), hosts, comm.rank
        self._check_ranks = check_ranks
        self.bounds = [n * i // len(hosts) for i in range(len(hosts) + 1)]
        self._n_counters = n_counters
        mine = [self.bounds[i + 1] - self.bounds[i] for i, host in enumerate(hosts) if host == comm.rank]
        n_bytes = sum(mine) * n_vectors * self.dtype.itemsize
        self.shared = _fits_shared_memory(comm, n_bytes * (1 + n_others))
        if not self.shared:
            warn(comm, LITTLE)
        self._window, self._memory = _window(comm, n_bytes, shared=self.shared)
        n_all = n_counters + len(hosts) if comm.rank == hosts[0] else 0
        self._control, self._counted = _window(comm, n_all * COUNTER)
        key, self._held = lifetimes.free_dropped(comm), []  # nobody adds to what is not yet zero: it is a barrier, too
        for name, window in (("vectors", self._window), ("counters", self._control)):
            window.Lock_all()
            self._held.append(lifetimes.Held(window, f"{key} {name}", comm.size, MPI.Win.Unlock_all))
        self._type = MPI.FLOAT if self.dtype == np.float32 else MPI.DOUBLE

    def _each(self, vector: int, work: Callable[[int, Any, int, int], None]) -> None:
        """``work(host, its part of the window, first element, end)`` for pieces of a vector, done when it returns."""
        for i, host in enumerate(self._hosts):
            first, end = self.bounds[i], self.bounds[i + 1]
            if first == end:
                continue
            self._take_turn(i)
            for start in range(first, end, PIECE):
                stop = min(start + PIECE, end)
                offset = (vector * (end - first) + start - first) * self.dtype.itemsize
                work(host, (offset, stop - start, self._type), start, stop)
            self._window.Flush(host)
            if self._check_ranks is not None:
                self.set_counters(self._n_counters + i, [0])

    def _take_turn(self, i: int) -> None:
        if self._check_ranks is None:
            return
        while not self.replace_counter(self._n_counters + i, 0, self._me + 1):
            self._check_ranks()
            time.sleep(NAP)

    # -- vectors -----------------------------------------------------------------------------------------------------

    def read(self, vector: int, out: Array) -> None:
        """out (n,) = the vector, each element as it is at some moment in between"""
        nothing = np.empty(0, self.dtype)

        def work(host: int, target: Any, start: int, stop: int) -> None:
            into = [out[start:stop], self._type]
            self._window.Get_accumulate([nothing, 0, self._type], into, host, target, MPI.NO_OP)

        self._each(vector, work)

    def add(self, vector: int, values: Array) -> None:
        """vector += values (n,)"""
        self._each(
            vector,
            lambda host, target, start, stop: self._window.Accumulate(
                [values[start:stop], self._type], host, target, MPI.SUM
            ),
        )

    def add_and_read(self, vector: int, values: Array, before: Array) -> None:
        """before (n,) = the vector; vector += values, element by element at one moment"""
        self._each(
            vector,
            lambda host, target, start, stop: self._window.Get_accumulate(
                [values[start:stop], self._type], [before[start:stop], self._type], host, target, MPI.SUM
            ),
        )

    def write(self, vector: int, values: Array) -> None:
        """vector = values (n,)"""
        self._each(
            vector,
            lambda host, target, start, stop: self._window.Accumulate(
                [values[start:stop], self._type], host, target, MPI.REPLACE
            ),
        )

    def hosted(self, vector: int) -> tuple[int, Array]:
        """(first element, elements) of the part of a vector that this rank hosts, in place; none elsewhere.

        Without MPI: for what is left when another rank was lost.
        """
        if self._me not in self._hosts:
            return 0, np.empty(0, self.dtype)
        i = self._hosts.index(self._me)
        n = self.bounds[i + 1] - self.bounds[i]
        return self.bounds[i], self._memory.view(self.dtype)[vector * n : (vector + 1) * n]

    # -- counters ----------------------------------------------------------------------------------------------------

    def add_to_counter(self, counter: int, amount: int) -> int:
        """Add to one counter and return what it was before."""
        given, before = np.array([amount], np.int64), np.empty(1, np.int64)
        kind = MPI.INT64_T
        self._control.Fetch_and_op([given, kind], [before, kind], self._hosts[0], counter * COUNTER)
        self._control.Flush(self._hosts[0])
        return int(before[0])

    def counter(self, counter: int) -> int:
        return self.add_to_counter(counter, 0)

    def counters(self) -> IntArray:
        """All counters, each as it is at some moment in between."""
        previous = np.empty(self._n_counters, np.int64)
        target = (0, self._n_counters, MPI.INT64_T)
        nothing = [np.empty(0, np.int64), 0, MPI.INT64_T]
        self._control.Get_accumulate(nothing, [previous, MPI.INT64_T], self._hosts[0], target, MPI.NO_OP)
        self._control.Flush(self._hosts[0])
        return previous

    def set_counters(self, first: int, values: npt.ArrayLike) -> None:
        """Replace some counters, one after the other."""
        given = np.ascontiguousarray(values, np.int64)
        target = (first * COUNTER, len(given), MPI.INT64_T)
        self._control.Accumulate([given, MPI.INT64_T], self._hosts[0], target, MPI.REPLACE)
        self._control.Flush(self._hosts[0])

    def replace_counter(self, counter: int, expected: int, new: int) -> bool:
        """Make a counter ``new`` if it is ``expected``; whether it was."""
        given, wanted, previous = (np.array([x], np.int64) for x in (new, expected, 0))
        kind = MPI.INT64_T
        self._control.Compare_and_swap(
            [given, kind], [wanted, kind], [previous, kind], self._hosts[0], counter * COUNTER
        )
        self._control.Flush(self._hosts[0])
        return int(previous[0]) == expected

    def free(self) -> None:
        """Collective over the communicator that the windows were made on."""
        self._memory = self._counted = np.empty(0, np.uint8)
        for held in self._held:
            held.free()


def _fits_shared_memory(comm: MPI.Comm, n_bytes: int) -> bool:
    """Whether the nodes of ``comm`` have room for what all ranks want to share; the same on all ranks.  Collective."""
    node = comm.Split_type(MPI.COMM_TYPE_SHARED)
    wanted, room = node.allreduce(n_bytes), node.bcast(shared_memory_left())
    node.Free()
    return bool(comm.allreduce(wanted <= SHARE_OF_SHARED * room, MPI.LAND))


def _window(comm: MPI.Comm, n_bytes: int, *, shared: bool = True) -> tuple[MPI.Win, Array]:
    """A window, and this rank's part of it, all zero.   shared: in memory that the ranks of a node share"""
    if not shared:
        own: Array = np.zeros(n_bytes, np.uint8)
        return MPI.Win.Create(own, 1, comm=comm), own  # type: ignore[arg-type]
    window = MPI.Win.Allocate(n_bytes, 1, comm=comm)  # type: ignore[arg-type]
    memory: Array = np.frombuffer(memoryview(window.tomemory()), np.uint8, n_bytes)  # type: ignore[arg-type]
    memory[:] = 0
    return window, memory
