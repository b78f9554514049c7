"""Messages of any size: values that are too large for one MPI call are cut into pieces.

Counts and displacements are C ints in MPI 3, and MPI libraries that offer the wider ones of MPI 4 are not everywhere
yet.  So whatever takes more than ``LIMIT`` bytes moves in several messages, each a run of memory; no displacement is
larger.  Smaller messages are one call of MPI.  Sizes are Python's integers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
from mpi4py import MPI

Array = npt.NDArray[Any]

LIMIT = 1 << 30  # bytes: counts and displacements up to it fit an int, whatever their unit
TAG = 24  # of messages between two ranks


def fits(n: int, itemsize: int) -> bool:
    """Whether ``n`` elements, or displacements up to ``n``, fit one call."""
    return int(n) * itemsize <= LIMIT


def pieces(n: int, itemsize: int) -> Iterator[slice]:
    """``n`` elements as consecutive stretches, of which each fits; one empty stretch where there are none."""
    longest = max(1, LIMIT // max(1, itemsize))
    for start in range(0, max(int(n), 1), longest):
        yield slice(start, min(start + longest, int(n)))


def cut(values: Array) -> list[Array]:
    """The same memory in pieces.   values: C-contiguous"""
    flat = values.reshape(-1)
    return [flat[piece] for piece in pieces(flat.size, flat.itemsize)]


def bcast(comm: MPI.Comm, values: Array, root: int = 0) -> None:
    """Give all ranks the values of ``root``, in place.   values: C-contiguous, alike in size.  Collective."""
    for piece in cut(values):
        comm.Bcast(piece, root)


def bcast_arrays(comm: MPI.Comm, arrays: list[Array] | None) -> list[Array]:
    """Rank 0's arrays, of any shapes and types, on every rank; the others bring None.  Collective."""
    shapes = comm.bcast(None if arrays is None else [(array.shape, array.dtype.str) for array in arrays])
    copies = [np.empty(*of) for of in shapes] if arrays is None else [np.ascontiguousarray(array) for array in arrays]
    for array in copies:
        bcast(comm, array.reshape(-1).view(np.uint8))  # bytes: MPI knows fewer types than files have
    return copies


def allreduce(comm: MPI.Comm, values: Array) -> None:
    """Replace values by their sums over the ranks.   values: C-contiguous, alike in size.  Collective."""
    for piece in cut(values):
        comm.Allreduce(MPI.IN_PLACE, piece)


def gather_rows(comm: MPI.Comm, values: Array, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """Fill ``values`` (rows, width) from every rank's own rows, which are at their positions already.  Collective.

    rows   (ranks,) the number of each rank, one after the other; the same on all ranks
    """
    width = values.shape[1]
    if fits(values.size, values.itemsize):
        comm.Allgatherv(MPI.IN_PLACE, [values, np.asarray(rows) * width])
        return
    for rank, part in enumerate(_parts(values, rows)):
        bcast(comm, part, rank)


def reduce_rows(comm: MPI.Comm, partial: Array, own: Array, rows: Sequence[int] | npt.NDArray[np.int64]) -> None:
    """own (own rows, width) = the sums over the ranks of these rows of ``partial`` (rows, width).  Collective.

    rows   as in :func:`gather_rows`
    """
    if fits(partial.size, partial.itemsize):
        comm.Reduce_scatter(partial, own, np.asarray(rows) * partial.shape[1])
        return
    for rank, part in enumerate(_parts(partial, rows)):
        outputs = cut(own) if rank == comm.rank else [None] * len(cut(part))
        for piece, sums in zip(cut(part), outputs, strict=True):
            comm.Reduce(piece, sums, root=rank)


def _parts(values: Array, rows: Sequence[int] | npt.NDArray[np.int64]) -> list[Array]:
    bounds = [0, *accumulate(int(n) for n in rows)]
    return [values[start:stop] for start, stop in pairwise(bounds)]


def begin(verb: Callable[..., MPI.Request], values: Array, rank: int, tag: int) -> list[MPI.Request]:
    """Begin ``comm.Isend`` or ``comm.Irecv`` of values whose size both sides know.   values: C-contiguous"""
    return [verb(piece, rank, tag) for piece in cut(values) if piece.size]


def exchange(comm: MPI.Comm, sent: Sequence[Array], received: Sequence[Array], tag: int = TAG) -> None:
    """Send each rank its array, and fill one from each; both sides know the sizes, which may be 0.  Collective.

    sent, received   (ranks) arrays, C-contiguous
    """
    requests: list[MPI.Request] = []
    for rank, values in enumerate(received):
        if rank != comm.rank:
            requests += begin(comm.Irecv, values, rank, tag)
    for rank, values in enumerate(sent):
        if rank != comm.rank:
            requests += begin(comm.Isend, values, rank, tag)
    received[comm.rank].reshape(-1)[:] = sent[comm.rank].reshape(-1)
    MPI.Request.Waitall(requests)


def concatenated(comm: MPI.Comm, values: Array) -> Array:
    """All ranks' vectors of one type, one after the other, on every rank.   values: (n,), any n.  Collective."""
    sizes = comm.allgather(len(values))
    joined = np.empty((sum(sizes), 1), values.dtype)
    start = sum(sizes[: comm.rank])
    joined[start : start + len(values), 0] = values
    gather_rows(comm, joined, sizes)
    return joined[:, 0]
