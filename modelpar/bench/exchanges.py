"""The time of each verb of the engine between the ranks at hand, by the bytes that a rank receives."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from typing import Any

import numpy as np
from mpi4py import MPI

from modelpar.bench.timing import time_of
from modelpar.comm.exchange import Exchange, Traffic
from modelpar.comm.halo import Halo
from modelpar.kernels.states import Packed
from modelpar.ownership.layout import UnitLayout
from modelpar.plan.machine import Curve, Link, of_members
from modelpar.sync.reduction import Reduction

RECEIVED = (1 << 6, 1 << 11, 1 << 14, 1 << 17, 1 << 20, 1 << 23)  # bytes
LONGEST = 5e-3  # seconds of an exchange between nodes, after which none with more bytes is measured
FEWEST = 4  # sizes that are measured all the same, so that the last two tell how long a byte takes
MESSAGES = 64, 1 << 16, 1 << 20
REPEATS = 7
LEAST = 3e-4  # seconds of a repeat
WORD = 64  # samples
MANY, MANY_WORDS = 1 << 17, 8  # from so many bytes on each unit has so many words, a minibatch of 512 samples

Verb = Callable[[], object]


def curves(comm: MPI.Comm, *, between: bool = False) -> dict[str, Curve]:
    """Seconds of every verb over all ranks of ``comm``, by its name in ``Machine.verbs``; none of one.  Collective.

    between   the ranks are on as many nodes, not on one; halos, which go between some of them, are not measured then
    """
    if comm.size == 1:
        return {}
    found: dict[str, tuple[list[float], list[float]]] = {}
    longest = 0.0
    for i, n_bytes in enumerate(RECEIVED):
        if between and longest > LONGEST and i >= FEWEST:
            break
        works = {name: work for name, work in _verbs(comm, n_bytes).items() if not (between and "halo" in name)}
        for name, seconds in medians({name: work for name, (work, _) in works.items()}, comm).items():
            points = found.setdefault(of_members(name, comm.size, between=between), ([], []))
            points[0].append(works[name][1])
            points[1].append(seconds)
            longest = max(longest, seconds)
    return {name: Curve(tuple(received), tuple(seconds)) for name, (received, seconds) in found.items()}


def curves_between(comm: MPI.Comm) -> dict[str, Curve]:
    """``curves`` of one rank of each node: of all, and of every part into which a grid may divide them.

    The parts exchange at the same time.  Collective over ``comm``, one rank of each node."""
    found: dict[str, Curve] = {}
    for n in range(2, comm.size + 1):
        if comm.size % n == 0:
            part = comm.Split(comm.rank // n, comm.rank)
            found |= curves(part, between=True)
            part.Free()
    return found


def medians(works: dict[str, Verb], comm: MPI.Comm, *, least: float = LEAST) -> dict[str, float]:
    """Seconds of a call of each on the slowest rank, the median of the faster half of repeats in turn.  Collective.

    least   seconds of a repeat
    """
    calls = {}
    for name, work in works.items():
        work()
        calls[name] = max(1, min(500, int(least / max(min(time_of(work, 2, comm) for _ in range(2)), 1e-6))))
    times: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(REPEATS):
        for name, work in works.items():
            times[name].append(time_of(work, calls[name], comm))
    return {name: statistics.median(sorted(found)[: REPEATS // 2 + 1]) for name, found in times.items()}


def _verbs(comm: MPI.Comm, n_bytes: int) -> dict[str, tuple[Verb, float]]:
    """(a call, the bytes that a rank receives in it) of each verb, about ``n_bytes``."""
    n, traffic = comm.size, Traffic()
    received: dict[str, tuple[Verb, float]] = {}
    words = 1 if n_bytes < MANY else MANY_WORDS  # of a unit
    units = max(1, n_bytes // (8 * words * (n - 1)))  # of each rank
    layout = UnitLayout.blocks(units * n, n)
    exchange, bits = Exchange(comm, layout, traffic), Packed.empty(units, WORD * words)
    received["gather bits"] = lambda: exchange.gather_packed(bits), 8.0 * words * units * (n - 1)
    halo = Halo(comm, layout, np.arange(units * n), traffic)
    received["halo bits"] = lambda: halo.begin(bits).wait(), 8.0 * words * units * (n - 1)
    owned = max(1, n_bytes // (4 * WORD * (n - 1)))
    sums = np.zeros((owned * n, WORD), np.int32)
    reduced = Exchange(comm, UnitLayout.blocks(owned * n, n), traffic)
    received["reduce integers"] = lambda: reduced.reduce(sums), 4.0 * WORD * owned * (n - 1)
    reals = np.zeros((owned * n, WORD), np.float32)
    gathered = np.zeros((owned, WORD), np.float32)
    received["gather floats"] = lambda: reduced.gather(gathered), 4.0 * WORD * owned * (n - 1)
    received["reduce floats"] = lambda: reduced.reduce(reals), 4.0 * WORD * owned * (n - 1)
    reduction = Reduction(comm, traffic)
    for name, dtype in (("allreduce integers", np.int16), ("allreduce floats", np.float32)):
        values: Any = np.zeros(max(1, n_bytes * n // (2 * (n - 1) * np.dtype(dtype).itemsize)), dtype)
        in_pieces = [values[start : start + (1 << 22)] for start in range(0, values.size, 1 << 22)]

        def summed(pieces: Any = in_pieces) -> None:
            for piece in pieces:
                reduction.sum(piece)

        received[name] = summed, 2.0 * (n - 1) * values.nbytes / n
    return received


def links(comm: MPI.Comm, node: MPI.Comm) -> tuple[Link, Link]:
    """(between two ranks of a node, between two nodes), as measured where there are such ranks.  Collective."""
    names = comm.allgather(node.bcast(comm.rank))
    mate = next((rank for rank, name in enumerate(names) if rank and name == names[0]), None)
    far = next((rank for rank, name in enumerate(names) if name != names[0]), None)
    within = link(comm, mate) if mate is not None else Link(5e-7, 6e9)
    return within, link(comm, far) if far is not None else within


def link(comm: MPI.Comm, other: int) -> Link:
    """Of messages between ranks 0 and ``other``, to and fro.  Collective."""
    times = []
    for n_bytes in MESSAGES:
        sent, received = np.zeros(n_bytes, np.uint8), np.zeros(n_bytes, np.uint8)

        def to_and_fro(sent: Any = sent, received: Any = received) -> None:
            if comm.rank in (0, other):
                comm.Sendrecv(sent, other - comm.rank, recvbuf=received, source=other - comm.rank)

        times.append(medians({"": to_and_fro}, comm)[""])
    byte = max(1e-12, (times[-1] - times[1]) / (MESSAGES[-1] - MESSAGES[1]))
    return Link(max(1e-8, times[0]), 1 / byte)
