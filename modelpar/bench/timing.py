"""Clocks with one result for all ranks, and measurements in turn: other load on the machine slows all works alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping

from mpi4py import MPI

Size = tuple[int, int, int]  # batch, visible units, hidden units
Work = Callable[[], object]


def text_of(size: Size) -> str:
    """``100x784x500``"""
    return "x".join(map(str, size))


def in_turn(works: Mapping[str, Work], *, repeats: int, seconds: float, comm: MPI.Comm) -> dict[str, list[float]]:
    """Seconds of one call of each work, ``repeats`` times in turn, each time for at least ``seconds``.  Collective.

    The same on every rank: the slowest rank's clock counts.
    """
    calls = {name: calls_for(seconds, work, comm) for name, work in works.items()}
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(repeats):
        for name, work in works.items():
            times[name].append(time_of(work, calls[name], comm))
    return times


def calls_for(seconds: float, work: Work, comm: MPI.Comm) -> int:
    """How many calls of ``work`` take at least ``seconds``; the first calls warm everything up.  Collective."""
    work()
    once = min(time_of(work, 1, comm) for _ in range(2))
    return max(1, math.ceil(seconds / max(once, 1e-6)))


def time_of(work: Work, calls: int, comm: MPI.Comm) -> float:
    """Seconds of one call on the slowest rank, the same on every rank.  Collective."""
    comm.Barrier()
    started = time.perf_counter()
    for _ in range(calls):
        work()
    return float(comm.allreduce((time.perf_counter() - started) / calls, MPI.MAX))
