"""Statistics of packed states in integers, and the update of the weights from them in the same pass.

The statistics of one step are ``C[i, j] = sum over samples of v0[i] s0[j] - v1[i] s1[j]`` with states v and k-bit
values s: ANDed words and counted ones, plane by plane, or products of bytes on tiles (``statistics.tiles``).  Integers
add up exactly in any order, over samples, planes, threads and replicas.  The update is element by element, in this
order of operations:

    V = carry * V + gain * C;  V -= shrink * W;  W += V

The loops over C take the kernel that counts a few rows as an address, and how many rows and columns it counts at once.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import types

from modelpar.kernels import threads
from modelpar.kernels.llvm.calls import address_of, caller
from modelpar.kernels.llvm.counts import TILE, count_model_row, count_model_tile, count_tile, count_tile_row
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32
from modelpar.kernels.states import Words
from modelpar.kernels.statistics.update import update_block, update_row
from modelpar.machine.compilation import njit

COLUMNS = 512  # of C at a time: a row long enough to be prefetched, few enough for their words to stay in the caches

OF_WORD = 1.2  # nanoseconds for a word among those of a vector

_BITS, _VALUES = types.Array(types.uint64, 2, "C"), types.Array(types.uint32, 4, "C")
COUNT_ROWS = types.void(_BITS, _VALUES, _BITS, _VALUES, *[types.int64] * 4, types.Array(types.int32, 2, "C"))
_count = caller(COUNT_ROWS)


@functools.cache
def entry() -> int:
    """Return the address of ``count_rows``."""
    return address_of(count_rows, COUNT_ROWS)


@njit(cache=True, nogil=True)
def by_vectors(words):  # type: ignore[no-untyped-def]
    """Packed words (units, planes, n) uint64 -> (vectors, planes, 2 n, 16) uint32, with 16 units per vector.

    All words of a vector of units are adjacent.  With all units of a word in one row, the rows of wide layers would be
    a multiple of 4 KiB apart and displace each other in the first-level cache.
    """
    n_units, planes, n = words.shape
    out = np.zeros(((n_units + LANES - 1) // LANES, planes, 2 * n, LANES), np.uint32)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    for i in range(n_units):
        vector, lane = out[i // LANES], i % LANES
        for p in range(planes):
            for w in range(n):
                word = words[i, p, w]
                vector[p, 2 * w, lane] = np.uint32(word & low)
                vector[p, 2 * w + 1, lane] = np.uint32(word >> half)
    return out


def both_by_vectors(s0: Words, s1: Words) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.uint32]]:
    """``by_vectors`` of both phases, side by side where that is worth it."""
    phases, found = (s0, s1), list[Any]([None, None])

    def work(first: int, last: int) -> None:
        for i in range(first, last):
            found[i] = by_vectors(phases[i])

    threads.split(2, 1 if min(s0.size, s1.size) >= threads.rows_worth_waking(OF_WORD) else 2, work)
    return found[0], found[1]


@njit(cache=True, nogil=True)
def count_rows(v0, s0, v1, s1, first, n_rows, low, high, counts):  # type: ignore[no-untyped-def]
    """counts (TILE, COLUMNS) int32: rows ``first .. first + n_rows - 1``, columns ``low .. high - 1`` of C

    v (rows, words) uint64, at most TILE rows; s from by_vectors, low a multiple of 16.  If the data's phase has no
    words, only the model's is counted.
    """
    row, vector, word, count = v1.strides[0], s1.strides[0], s1.strides[2], counts.strides[0]
    v0_at, v1_at = address(v0) + first * row, address(v1) + first * row
    s0_at, s1_at, counts_at = address(s0), address(s1), address(counts)
    planes, n_words = s1.shape[1], s1.shape[2]
    if n_words == 0:  # a replica without samples; the tiles' loops run at least once
        counts[:] = 0
        return
    alone = s0.shape[2] == 0
    for j in range(low, high, LANES):
        a, b, out = s0_at + j // LANES * vector, s1_at + j // LANES * vector, counts_at + 4 * (j - low)
        if alone and n_rows == TILE:
            count_model_tile(v0_at, v1_at, row, a, b, word, n_words, planes, out, count)
        elif alone:
            for r in range(n_rows):
                count_model_row(v0_at, v1_at + r * row, row, a, b, word, n_words, planes, out + r * count, count)
        elif n_rows == TILE:
            count_tile(v0_at, v1_at, row, a, b, word, n_words, planes, out, count)
        else:
            for r in range(n_rows):
                count_tile_row(
                    v0_at + r * row, v1_at + r * row, row, a, b, word, n_words, planes, out + r * count, count
                )


@njit(cache=True, nogil=True)
def count_and_update(kernel, at_once, v0, s0, v1, s1, W, V, carry, gain, shrink, start, stop):  # type: ignore[no-untyped-def]
    """Update rows ``start .. stop - 1`` of W and V (rows, columns) from C, in one pass over memory."""
    n_at_once, columns = at_once
    counts = aligned_int32(n_at_once * (columns + LANES)).reshape(n_at_once, columns + LANES)
    for low in range(0, W.shape[1], columns):
        high = min(low + columns, W.shape[1])
        for first in range(start, stop, n_at_once):
            n_rows = min(n_at_once, stop - first)
            _count(kernel, (v0, s0, v1, s1, first, n_rows, low, high, counts))
            update_block(W, V, counts, first, n_rows, low, high, carry, gain, shrink)


@njit(cache=True, nogil=True)
def count_and_add(kernel, at_once, v0, s0, v1, s1, V, gain, start, stop):  # type: ignore[no-untyped-def]
    """V = V + gain * C, rows ``start .. stop - 1``"""
    n_at_once, columns = at_once
    counts = aligned_int32(n_at_once * (columns + LANES)).reshape(n_at_once, columns + LANES)
    for low in range(0, V.shape[1], columns):
        high = min(low + columns, V.shape[1])
        for first in range(start, stop, n_at_once):
            n_rows = min(n_at_once, stop - first)
            _count(kernel, (v0, s0, v1, s1, first, n_rows, low, high, counts))
            for r in range(n_rows):
                count, row = counts[r], V[first + r, low:high]
                for j in range(len(row)):
                    row[j] += gain * V.dtype.type(count[j])


@njit(cache=True, nogil=True)
def count_block(kernel, at_once, v0, s0, v1, s1, start, stop, out):  # type: ignore[no-untyped-def]
    """Rows ``start .. stop - 1`` of out (rows, columns), int8, int16 or int32, = C"""
    n_at_once, columns = at_once
    counts = aligned_int32(n_at_once * (columns + LANES)).reshape(n_at_once, columns + LANES)
    for low in range(0, out.shape[1], columns):
        high = min(low + columns, out.shape[1])
        for first in range(start, stop, n_at_once):
            n_rows = min(n_at_once, stop - first)
            _count(kernel, (v0, s0, v1, s1, first, n_rows, low, high, counts))
            for r in range(n_rows):
                count, row = counts[r], out[first + r, low:high]
                for j in range(len(row)):
                    row[j] = count[j]


@njit(cache=True, nogil=True)
def update_rows(W, V, counts, carry, gain, shrink, start, stop):  # type: ignore[no-untyped-def]
    """``update_row`` for rows ``start .. stop - 1`` of counts (rows, columns) of any integer type"""
    for i in range(start, stop):
        update_row(W[i], V[i], counts[i], carry, gain, shrink)
