"""Updates of parameters in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.counts import update_vectors
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]

GRAIN = 1 << 19  # parameters for which one more thread is worth waking: about 150 us of work
SQUARE_STEPS = float(1 << 31)


@njit(cache=True, nogil=True)
def update_panel(parameters, velocity, decay):  # type: ignore[no-untyped-def]
    """velocity -= decay * parameters; parameters += velocity      both (n,), decay a scalar of their type"""
    for i in range(len(parameters)):
        step = velocity[i] - decay * parameters[i]
        velocity[i] = step
        parameters[i] += step


@njit(cache=True, nogil=True)
def update_row(W, V, counts, carry, gain, shrink):  # type: ignore[no-untyped-def]
    """V = carry * V + gain * counts; V -= shrink * W; W += V      W, V (n,) of one type, counts (at least n,)"""
    for j in range(len(W)):
        velocity = carry * V[j] + gain * W.dtype.type(counts[j])
        velocity -= shrink * W[j]
        V[j] = velocity
        W[j] += velocity


@njit(cache=True, nogil=True)
def update_block(W, V, counts, first, n_rows, low, high, carry, gain, shrink):  # type: ignore[no-untyped-def]
    """``update_row`` for rows ``first .. first + n_rows - 1`` and columns ``low .. high - 1`` of W and V.

    counts (at least n_rows, at least high - low) int32

    Each row asks for the next one, W's and V's: parts of rows lie apart in memory, and the processor foresees nothing.
    """
    n = (high - low) // LANES
    end = low + n * LANES
    for r in range(n_rows):
        row = first + r
        if n > 0:
            w = address(W) + row * W.strides[0] + low * W.itemsize
            v = address(V) + row * V.strides[0] + low * V.itemsize
            update_vectors(w, v, address(counts) + r * counts.strides[0], n, carry, gain, shrink, W.strides[0])
        if end < high:
            update_row(W[row, end:high], V[row, end:high], counts[r, end - low : high - low], carry, gain, shrink)


@njit(cache=True, nogil=True)
def add_row(V, counts, carry, gain):  # type: ignore[no-untyped-def]
    """V = carry * V + gain * counts      V (n,), counts (n,) of any integer type, carry and gain of V's type"""
    for j in range(len(V)):
        V[j] = carry * V[j] + gain * V.dtype.type(counts[j])


@njit(cache=True, nogil=True)
def subtract_outer_rows(V, carry, a, d, c, f, start, stop):  # type: ignore[no-untyped-def]
    """V[i, j] = carry * V[i, j] - (a[i] * d[j] + c[i] * f[j]), rows ``start .. stop - 1``; all of one type"""
    for i in range(start, stop):
        row, one, other = V[i], a[i], c[i]
        for j in range(len(row)):
            row[j] = carry * row[j] - (one * d[j] + other * f[j])


@njit(cache=True, nogil=True)
def scale_outer_rows(V, a, d, start, stop):  # type: ignore[no-untyped-def]
    """V[i, j] *= a[i] * d[j], rows ``start .. stop - 1``; all of one type"""
    for i in range(start, stop):
        row, one = V[i], a[i]
        for j in range(len(row)):
            row[j] *= one * d[j]


@njit(cache=True, nogil=True)
def shrink_span(W, limit):  # type: ignore[no-untyped-def]
    """W (n,) moves towards 0 by ``limit``, and ends there where it is nearer."""
    for i in range(len(W)):
        size = abs(W[i]) - limit
        W[i] = (size if W[i] > 0 else -size) if size > 0 else W[i] - W[i]


@njit(cache=True, nogil=True)
def largest_span(V):  # type: ignore[no-untyped-def]
    """The largest absolute value of V (n,); NaN is passed over."""
    largest = np.float64(0)
    for i in range(len(V)):
        largest = max(largest, abs(np.float64(V[i])))
    return largest


@njit(cache=True, nogil=True)
def squares_span(V, largest):  # type: ignore[no-untyped-def]
    """The sum of (V / largest)^2 in steps of 2^-31, each rounded, as an integer: the same in any order.   V (n,)"""
    total = np.int64(0)
    for i in range(len(V)):
        part = np.float64(V[i]) / largest
        total += np.int64(np.rint(part * part * SQUARE_STEPS))
    return total


@njit(cache=True, nogil=True)
def shorten_span(W, V, factor):  # type: ignore[no-untyped-def]
    """V *= factor, and W (n,), to which V was added, loses what V has lost."""
    for i in range(len(V)):
        kept = factor * V[i]
        W[i] -= V[i] - kept
        V[i] = kept


@njit(cache=True, nogil=True)
def approach_span(average, values, part):  # type: ignore[no-untyped-def]
    """average (n,) moves towards values (n,) by a part of the distance, of their type."""
    for i in range(len(average)):
        average[i] += part * (values[i] - average[i])


def largest(values: Array) -> float:
    """The largest absolute value of an array (n,)."""
    return max(_of_spans(values, largest_span), default=0.0)


def sum_of_squares(values: Array, largest: float) -> int:
    """The sum of (values / largest)^2 as an integer, in steps of 2^-31: the same in any order, up to 2^32 of them.

    values   (n,), of absolute values up to ``largest`` > 0
    """
    return sum(_of_spans(values, lambda span: int(squares_span(span, largest))))


def _of_spans(values: Array, of: Callable[[Array], Any]) -> list[Any]:
    results: list[Any] = []
    threads.split(len(values), GRAIN, lambda start, stop: results.append(of(values[start:stop])))
    return results


def shorten(W: Array, V: Array, factor: float) -> None:
    """``W -= (1 - factor) V; V *= factor`` in place: an update V that is in W already counts by a factor only.

    W, V   of one shape and type, C-contiguous
    """
    flat, change, scalar = W.reshape(-1), V.reshape(-1), W.dtype.type(factor)
    threads.split(len(flat), GRAIN, lambda start, stop: shorten_span(flat[start:stop], change[start:stop], scalar))


def approach(average: Array, values: Array, part: float) -> None:
    """``average += part * (values - average)``, both (n,) of one type, in place."""
    scalar = average.dtype.type(part)
    threads.split(
        len(average), GRAIN, lambda start, stop: approach_span(average[start:stop], values[start:stop], scalar)
    )


def subtract_outer(V: Array, carry: float, rows: tuple[Array, Array], columns: tuple[Array, Array]) -> None:
    """``V = carry * V - (a d^T + c f^T)`` in place, V (n, m) of one type.

    rows   a, c (n,); columns: d, f (m,); of any type, rounded to V's first
    """
    a, c = (np.ascontiguousarray(x, V.dtype) for x in rows)
    d, f = (np.ascontiguousarray(x, V.dtype) for x in columns)
    keep = V.dtype.type(carry)
    grain = threads.rows_of(GRAIN, V.shape[1])
    threads.split(len(V), grain, lambda start, stop: subtract_outer_rows(V, keep, a, d, c, f, start, stop))


def scale_outer(V: Array, rows: Array, columns: Array) -> None:
    """``V *= rows columns^T`` in place, V (n, m); rows (n,) and columns (m,) of any type, rounded to V's first."""
    a, d = np.ascontiguousarray(rows, V.dtype), np.ascontiguousarray(columns, V.dtype)
    grain = threads.rows_of(GRAIN, V.shape[1])
    threads.split(len(V), grain, lambda start, stop: scale_outer_rows(V, a, d, start, stop))


def shrink(W: Array, limit: float) -> None:
    """The proximal step of an L1 penalty: every weight moves towards 0 by ``limit``, and stops there.

    W   of any shape, C-contiguous, in place.
    """
    flat, amount = W.reshape(-1), W.dtype.type(limit)
    threads.split(len(flat), GRAIN, lambda start, stop: shrink_span(flat[start:stop], amount))


def apply_update(parameters: Array, velocity: Array, decay: float) -> None:
    """``velocity -= decay * parameters; parameters += velocity``, both (n,) in place.

    Raises ValueError where they differ in shape or type.
    """
    if parameters.shape != velocity.shape or parameters.dtype != velocity.dtype or parameters.ndim != 1:
        raise ValueError(
            f"parameters are {parameters.dtype} {parameters.shape} and velocity is {velocity.dtype} {velocity.shape},"
            " but both must be the same 1-D shape and type"
        )
    scalar = parameters.dtype.type(decay)

    def work(start: int, stop: int) -> None:
        update_panel(parameters[start:stop], velocity[start:stop], scalar)

    threads.split(len(parameters), GRAIN, work)
