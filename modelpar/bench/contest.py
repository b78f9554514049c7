"""The engine against its peers (:mod:`modelpar.bench.peers`) where the engine runs on several ranks.

Rank 0 leads: it starts the peers, and has them and the engine measured in turn.  The other ranks sleep between the
engine's rounds, since a rank that waits inside MPI takes a processor from the peers.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.bench.peers import PeerError, available, missing, peer, race, sgemm_pair
from modelpar.bench.timing import Size, Work, time_of
from modelpar.errors import ModelparError, raise_together

POLL = 0.002  # seconds between two tests of a rank that sleeps
# As long as the peers wait before they answer: the engine's pools of threads have then stopped spinning.
SETTLING = 0.1
WATCHED_THREADS = 2  # from so many threads in all, free processors are checked by an SGEMM with one and with two


def contest(
    update: Work, size: Size, names: list[str], *, comm: MPI.Comm, threads: int, repeats: int, seconds: float,
    n_samples: int | None = None, more: Sequence[str] = (),
) -> dict[str, Any]:  # fmt: skip
    """The result of :func:`modelpar.bench.peers.race`, the same on every rank.  Collective.

    update    one update of the engine, collective over ``comm``, by ``n_samples`` samples (default: ``size[0]``)
    more      further options of the peers' programs
    names     the peers; one that is not installed, or does not run here, is a line of ``failed``
    threads   of each rank; a peer gets as many as all ranks together have
    repeats   rounds; as many more replace those that are discarded because the machine was not free
    """
    update()
    once = min(time_of(update, 1, comm) for _ in range(2))
    error, outcome = None, None
    if comm.rank == 0:

        def engine_round(seconds: float) -> float:
            calls = max(1, math.ceil(seconds / max(once, 1e-6)))
            _tell(comm, calls)
            rate = (n_samples or size[0]) / _measure(update, calls, comm)
            time.sleep(SETTLING)
            return rate

        try:
            outcome = _lead(engine_round, size, names, threads * comm.size, repeats, seconds, more)
        except ModelparError as caught:
            error = caught
        _tell(comm, 0)
    else:
        while calls := _tell(comm, 0):
            _measure(update, calls, comm)
    raise_together(comm, error)
    return dict(comm.bcast(outcome))


def _lead(
    engine_round: Any, size: Size, names: list[str], threads: int, repeats: int, seconds: float, more: Sequence[str]
) -> dict[str, Any]:
    failed = missing(names)
    with ExitStack() as stack:
        sgemm = stack.enter_context(sgemm_pair()) if threads >= WATCHED_THREADS else None
        sides = []
        for name in available(names):
            try:
                sides.append(stack.enter_context(peer(name, size, threads, more=more)))
            except PeerError as error:
                failed[name] = str(error)
        spare = repeats if sgemm is not None else 0
        outcome = race(engine_round, sides, rounds=repeats, seconds=seconds, sgemm=sgemm, spare=spare)
    return {**outcome, "failed": {**failed, **outcome["failed"]}, "notes": {s.name: s.note for s in sides if s.note}}


def _measure(update: Work, calls: int, comm: MPI.Comm) -> float:
    update()  # the others' rounds have taken the caches
    return time_of(update, calls, comm)


def _tell(comm: MPI.Comm, calls: int) -> int:
    """How many updates rank 0 asks for, on every rank; 0 for the end.  Ranks that wait sleep.  Collective."""
    asked = np.array([calls], np.int64)
    request = comm.Ibcast(asked)
    while not request.Test():
        time.sleep(POLL)
    return int(asked[0])
