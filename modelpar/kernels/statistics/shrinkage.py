"""Proximal steps of penalties that know units or sites: sums over a unit's incoming weights, and what shrinks by them.

A sum over incoming weights is made of whole numbers, each weight's part of the largest one rounded by itself: the same
bits in whatever order, and over however many shards, it is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
Doubles = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

GRAIN = 1 << 18  # weights for which one more thread is worth waking
STEPS = float(1 << 31)  # of the part that a weight is of the largest: 2^31 units add up within 64 bits


# -- matrices: the incoming weights of a unit are a column -------------------------------------------------------------


@njit(cache=True, nogil=True)
def largest_of_columns(W, out):  # type: ignore[no-untyped-def]
    """out = max(out, |W|.max(axis=0))      W (n, m), out (m,) float64; NaN is passed over"""
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(len(row)):
            size = abs(np.float64(row[j]))
            out[j] = size if size > out[j] else out[j]


@njit(cache=True, nogil=True)
def add_parts_of_columns(W, inverse, squared, out):  # type: ignore[no-untyped-def]
    """out += rint((|W| inverse) ** (2 if squared else 1) * STEPS).sum(axis=0)      W (n, m); inverse (m,) float64,
    out (m,) int64"""
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(len(row)):
            part = abs(np.float64(row[j])) * inverse[j]
            out[j] += np.int64(np.rint((part * part if squared else part) * STEPS))


@njit(cache=True, nogil=True)
def shrink_columns(W, limits):  # type: ignore[no-untyped-def]
    """Column j of W (n, m) moves towards 0 by ``limits[j]``, and ends there where it is nearer."""
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(len(row)):
            size = abs(row[j]) - limits[j]
            row[j] = (size if row[j] > 0 else -size) if size > 0 else row[j] - row[j]


@njit(cache=True, nogil=True)
def scale_columns(W, factors):  # type: ignore[no-untyped-def]
    """W *= factors      W (n, m), factors (m,) of its type; by 0 all signs are lost"""
    for i in range(W.shape[0]):
        row = W[i]
        for j in range(len(row)):
            row[j] = row[j] * factors[j] if factors[j] > 0 else row[j] - row[j]


@njit(cache=True, nogil=True)
def shrink_blocks(W, n_states, limit, first, last):  # type: ignore[no-untyped-def]
    """Blocks ``first .. last - 1`` of ``n_states`` rows of W: each column of a block becomes shorter by ``limit``, as a
    vector, and 0 where it is not longer."""
    squares = np.empty(W.shape[1], np.float64)
    for block in range(first, last):
        rows = W[block * n_states : (block + 1) * n_states]
        squares[:] = 0
        for i in range(n_states):
            for j in range(len(squares)):
                squares[j] += np.float64(rows[i, j]) * np.float64(rows[i, j])
        for j in range(len(squares)):
            squares[j] = factor_of(np.sqrt(squares[j]), limit)
        for i in range(n_states):
            for j in range(len(squares)):
                factor = W.dtype.type(squares[j])
                rows[i, j] = rows[i, j] * factor if factor > 0 else rows[i, j] - rows[i, j]


@njit(cache=True, nogil=True)
def factor_of(norm, limit):  # type: ignore[no-untyped-def]
    """What a vector of this norm is multiplied by, to be shorter by ``limit``: 0 where it is not longer."""
    return 1.0 - limit / norm if norm > limit else 0.0


# -- listed connections: the incoming weights of a unit are a run, as ``kernels.listed`` has them ----------------------


@njit(cache=True, nogil=True)
def largest_of_runs(W, starts, out):  # type: ignore[no-untyped-def]
    """out[j] = max(|W[starts[j] : starts[j + 1]]|), 0 of none; NaN is passed over"""
    for j in range(len(out)):
        largest = 0.0
        for k in range(starts[j], starts[j + 1]):
            size = abs(np.float64(W[k]))
            largest = size if size > largest else largest
        out[j] = largest


@njit(cache=True, nogil=True)
def parts_of_runs(W, starts, inverse, squared, out):  # type: ignore[no-untyped-def]
    """As ``add_parts_of_columns``, of the runs W[starts[j] : starts[j + 1]]."""
    for j in range(len(out)):
        total = np.int64(0)
        for k in range(starts[j], starts[j + 1]):
            part = abs(np.float64(W[k])) * inverse[j]
            total += np.int64(np.rint((part * part if squared else part) * STEPS))
        out[j] = total


@njit(cache=True, nogil=True)
def shrink_members(first, members, outs, starts, limits, W):  # type: ignore[no-untyped-def]
    """The weights of every member move towards 0 by the limit (units,) of its unit, and end there where nearer."""
    for g in range(len(first) - 1):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            limit = limits[outs[m]]
            for k in range(starts[m], starts[m] + n):
                size = abs(W[k]) - limit
                W[k] = (size if W[k] > 0 else -size) if size > 0 else W[k] - W[k]


@njit(cache=True, nogil=True)
def scale_members(first, members, outs, starts, factors, W):  # type: ignore[no-untyped-def]
    """Multiply the weights of every member by the factor (units,) of its unit; by 0 all signs are lost."""
    for g in range(len(first) - 1):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            factor = factors[outs[m]]
            for k in range(starts[m], starts[m] + n):
                W[k] = W[k] * factor if factor > 0 else W[k] - W[k]


@njit(cache=True, nogil=True)
def shrink_sites_of_members(first, members, inputs, units, starts, n_states, limit, W):  # type: ignore[no-untyped-def]
    """The weights of every member with the ``n_states`` units of a site become shorter by ``limit``, as a vector.

    units   ids of the units that ``inputs`` are positions of: those of one site follow each other in a member
    """
    for g in range(len(first) - 1):
        n = first[g + 1] - first[g]
        for m in range(members[g], members[g + 1]):
            k = 0
            while k < n:
                site, end, squares = units[inputs[first[g] + k]] // n_states, k, 0.0
                while end < n and units[inputs[first[g] + end]] // n_states == site:
                    squares += np.float64(W[starts[m] + end]) * np.float64(W[starts[m] + end])
                    end += 1
                factor = W.dtype.type(factor_of(np.sqrt(squares), limit))
                for i in range(starts[m] + k, starts[m] + end):
                    W[i] = W[i] * factor if factor > 0 else W[i] - W[i]
                k = end


# -- over threads ------------------------------------------------------------------------------------------------------


def column_largest(W: Array) -> Doubles:
    """The largest absolute value of each column of W (n, m), 0 of no rows."""
    parts: list[Doubles] = []

    def work(start: int, stop: int) -> None:
        mine = np.zeros(W.shape[1])
        largest_of_columns(W[start:stop], mine)
        parts.append(mine)

    threads.split(len(W), threads.rows_of(GRAIN, W.shape[1]), work)
    return np.asarray(np.max(parts, axis=0)) if parts else np.zeros(W.shape[1])


def column_parts(W: Array, largest: Doubles, *, squared: bool) -> IntArray:
    """Sums (m,) over the rows of W (n, m) of what |W| is of the largest of its column, in ``STEPS``; or its square."""
    parts: list[IntArray] = []
    inverse = inverse_of(largest)

    def work(start: int, stop: int) -> None:
        mine = np.zeros(W.shape[1], np.int64)
        add_parts_of_columns(W[start:stop], inverse, squared, mine)
        parts.append(mine)

    threads.split(len(W), threads.rows_of(GRAIN, W.shape[1]), work)
    return np.asarray(np.sum(parts, axis=0)) if parts else np.zeros(W.shape[1], np.int64)


def run_sums(W: Array, starts: IntArray, *, squared: bool) -> Doubles:
    """Sums of |W|, or of its squares, over each run W[starts[j] : starts[j + 1]]."""
    largest, parts = np.zeros(len(starts) - 1), np.zeros(len(starts) - 1, np.int64)
    largest_of_runs(W, starts, largest)
    parts_of_runs(W, starts, inverse_of(largest), squared, parts)
    return from_parts(parts, largest, squared=squared)


def inverse_of(largest: Doubles) -> Doubles:
    """1 / largest, and 0 where that is 0."""
    return np.divide(1.0, largest, out=np.zeros_like(largest), where=largest > 0)


def from_parts(parts: IntArray, largest: Doubles, *, squared: bool) -> Doubles:
    """The sums that parts of the largest absolute values come to."""
    return np.asarray(parts / STEPS * (largest * largest if squared else largest))


def over_rows(W: Array, loop: Callable[[Array, Array], object], of_columns: Array) -> None:
    """Run ``loop``, one of those over columns, over W (n, m) with a number for each column, rounded to its type."""
    rounded = of_columns.astype(W.dtype)
    grain = threads.rows_of(GRAIN, W.shape[1])
    threads.split(len(W), grain, lambda start, stop: loop(W[start:stop], rounded))


def shrink_sites(W: Array, n_states: int, limit: float) -> None:
    """Every column's part of each block of ``n_states`` rows becomes shorter by ``limit``, or 0; W (n, m) in place."""
    grain = threads.rows_of(GRAIN, W.shape[1] * n_states)
    threads.split(len(W) // n_states, grain, lambda start, stop: shrink_blocks(W, n_states, float(limit), start, stop))


def warm_up(dtype: npt.DTypeLike) -> None:
    """Compile (or load) the loops over matrices for weights of ``dtype``."""
    W = np.zeros((1, 4), dtype)
    column_parts(W, column_largest(W), squared=True)
    for loop in (shrink_columns, scale_columns):
        over_rows(W, loop, np.zeros(4))
    shrink_sites(W, 1, 0.0)
