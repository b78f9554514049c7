"""What sums of weights can come to: bounds on summed inputs, and the scale of the fixed point that holds them.

The units that are on are not known beforehand, so a summed input lies between the sum of a unit's negative weights and
that of its positive ones.  While both are within what an int32 holds, no sum of any states wraps; partial sums may, as
additions modulo 2^32 come out right whenever the result fits.

Bounds are sums of integers, and so the same in any order and at every grid.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from modelpar.kernels import threads
from modelpar.kernels.llvm.vectors import compiled
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
IntArray = npt.NDArray[np.int64]

STEPS = 1024  # of a bound in a unit; a weight counts as the next larger multiple
MOST = 1 << 20  # steps that a weight counts at most, and NaN: no weight of a useful network is so large
PART = 1024  # weights whose steps int32 certainly holds
GRAIN = 1 << 18  # weights for which one more thread is worth waking
HELD = 2016  # of 2048: sums up to which a layer of 4096 units is certain not to wrap, all roundings included
UNITS = 4096  # that such a layer has; a scale for twice as many holds twice as much


class Bounds(NamedTuple):
    """At most so much, in steps: a weight, the summed input of a hidden unit, and that of a visible unit."""

    weight: int
    up: int
    down: int


def largest_sum_of(n_units: int) -> float:
    """The largest sum that the scale for a layer of ``n_units`` certainly holds (``subset_sums.fixed_point_scale``)."""
    return HELD * float(_rounded_up(n_units) // UNITS)


def units_for(n_units: int, bound: float) -> int:
    """The number of units, at least ``n_units``, whose scale holds sums up to ``bound``."""
    units = n_units
    while largest_sum_of(units) < bound:
        units = 2 * _rounded_up(units)
    return units


def _rounded_up(n_units: int) -> int:
    """The largest number of units that have the scale of so many."""
    return max(UNITS, 1 << (max(n_units, 1) - 1).bit_length())


def signed_sums(W: Array) -> tuple[IntArray, IntArray, int]:
    """Sums of positive and of negative weights, in steps, of W (rows, columns): (of rows (rows, 2), of columns
    (2, columns), steps of the largest weight)."""
    if not compiled():
        above, below = signed_steps(W)
        of_rows, of_columns = (np.stack([above.sum(axis), below.sum(axis)]) for axis in (1, 0))
        return of_rows.T.copy(), of_columns, int(np.maximum(above, below).max(initial=0))
    rows, columns, largest = np.zeros((len(W), 2), np.int64), np.zeros((2, W.shape[1]), np.int64), [0]
    parts: list[IntArray] = []

    def work(start: int, stop: int) -> None:
        mine = np.zeros((2, W.shape[1]), np.int64)
        largest.append(add_signed_sums(W[start:stop], rows[start:stop], mine))
        parts.append(mine)

    threads.split(len(W), threads.rows_of(GRAIN, W.shape[1]), work)
    for part in parts:
        columns += part
    return rows, columns, max(largest)


def signed_steps(W: Array) -> tuple[IntArray, IntArray]:
    """Steps of the positive weights, and of the others, each 0 where the other has them."""
    most = MOST // STEPS
    size = np.where(np.abs(W) < most, np.abs(W), most).astype(np.float32) * np.float32(STEPS)
    steps = np.minimum(size, MOST - 1).astype(np.int64) + 1
    return np.where(W > 0, steps, 0), np.where(W > 0, 0, steps)


@njit(cache=True, nogil=True)
def steps_of(weight):  # type: ignore[no-untyped-def]
    """Steps of the absolute value of a weight, int32: rounded up, at most ``MOST``, and so many for NaN."""
    size = np.float32(abs(weight)) * np.float32(STEPS)
    size = size if size < np.float32(MOST - 1) else np.float32(MOST - 1)
    return np.int32(np.int32(size) + 1)


@njit(cache=True, nogil=True)
def add_signed_sums(W, rows, columns):  # type: ignore[no-untyped-def]
    """Add to rows (n, 2) and columns (2, m) the sums of positive and of negative weights W (n, m), in steps; returns
    those of the largest weight."""
    positive, negative = np.zeros(W.shape[1], np.int32), np.zeros(W.shape[1], np.int32)
    largest = np.int32(0)
    for first in range(0, W.shape[0], PART):
        for i in range(first, min(first + PART, W.shape[0])):
            for low in range(0, W.shape[1], PART):
                row = W[i, low : low + PART]
                up, down = positive[low : low + PART], negative[low : low + PART]
                above, below = np.int32(0), np.int32(0)
                for j in range(len(row)):
                    steps = steps_of(row[j])
                    plus = steps if row[j] > 0 else np.int32(0)
                    minus = np.int32(steps - plus)
                    up[j] += plus
                    down[j] += minus
                    above += plus
                    below += minus
                    largest = max(largest, steps)
                rows[i, 0] += above
                rows[i, 1] += below
        for j in range(W.shape[1]):
            columns[0, j] += positive[j]
            columns[1, j] += negative[j]
            positive[j] = negative[j] = 0
    return largest
