"""Summaries of columns by one pass over them: means, deviations, the smallest and the largest value.

Sums of bytes are integers.  Sums of floats are pairs of floats (:mod:`modelpar.data.pairs`) of the deviations from
a column's first value, twice as long as the values: so moments are right to rounding at any unit, offset and order of
the rows, and the same bits whether values came dense, sparse, packed or in pieces, and however columns are spread over
ranks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from numba.extending import register_jitable

from modelpar.data.pairs import Pair, add_pair, add_square, divided, plus, product, times, two_product
from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]

_LANES = 16  # columns of a panel
_UNIT, _FIRST, _LOW, _HIGH, _SUMS, _SQUARES, _FIELDS = (k * _LANES for k in (1, 2, 3, 4, 5, 7, 9))  # value is at 0
_ROWS = 16

_LARGEST = 1e150  # above, squares overflow
_SMALLEST = 1e-130  # a smaller spread loses the ends of its squares: its column is measured in another unit


@dataclass(frozen=True, eq=False)
class ColumnSummary:
    """Raw values of some rows, column by column; every array is (n_units,) float64."""

    mean: FloatArray
    std: FloatArray  # 0 where all values are the same, and only there
    low: FloatArray  # smallest value; NaN values are passed over
    high: FloatArray  # largest value
    finite: npt.NDArray[np.bool_]  # no value is NaN, infinite, or so large that its square is


def summary_of_dense(source: Array, rows: Array, columns: Array) -> ColumnSummary:
    """Summary of ``source[rows][:, columns]``.   source (n, width) uint8 or float; rows (one or more), columns int64"""
    shape = len(columns)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    if source.dtype == np.uint8:
        sums, squares = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        _sum_bytes(source, rows, columns, sums, squares, low, high)
        return summary_of_integers(len(rows), sums, squares, low, high)
    first = source[rows[0], columns].astype(np.float64)
    state = np.zeros((-(-shape // _LANES), _FIELDS // _LANES, _LANES))
    state[:, _LOW // _LANES], state[:, _HIGH // _LANES] = np.inf, -np.inf

    def field(at: int) -> FloatArray:
        return state[:, at // _LANES].reshape(-1)[:shape]

    def work(unit: FloatArray, sums: FloatArray) -> None:
        padding = np.zeros(state.shape[0] * _LANES - shape)
        state[:, _UNIT // _LANES] = np.concatenate([unit, padding]).reshape(-1, _LANES)
        state[:, _FIRST // _LANES] = np.concatenate([first, padding]).reshape(-1, _LANES)
        state[:, _SUMS // _LANES :] = 0
        _sum_floats(source, rows, columns, state.reshape(len(state), _FIELDS))
        sums[:] = [field(_SUMS + k * _LANES) for k in range(4)]

    deviations = np.zeros((4, shape))
    work(np.ones(shape), deviations)
    return _summary_of_floats(len(rows), first, deviations, field(_LOW), field(_HIGH), work)


def summary_of_sparse(indices: Array, data: Array, n_rows: int, n_units: int, first: Array) -> ColumnSummary:
    """Summary of a CSR matrix (n_rows, n_units) from its entries: column indices and values.

    first   (n_units,) the values of the first row
    """
    counts = np.bincount(indices, minlength=n_units)
    low, high = np.zeros(n_units), np.zeros(n_units)
    dense = counts == n_rows  # columns without an implied zero
    low[dense], high[dense] = np.inf, -np.inf
    values = data.astype(np.float64)
    np.fmin.at(low, indices, values)
    np.fmax.at(high, indices, values)
    if data.dtype == np.uint8:  # exact: sums of bytes stay far below 2^53
        total, square = np.bincount(indices, values, n_units), np.bincount(indices, values * values, n_units)
        return summary_of_integers(n_rows, total.astype(np.int64), square.astype(np.int64), low, high)
    first = first.astype(np.float64)
    absent = (n_rows - counts).astype(np.float64)

    def work(unit: FloatArray, sums: FloatArray) -> None:
        _sum_entries(indices, values, first, unit, sums)
        deviation = -first * unit  # of every zero that is not listed
        square = times(two_product(deviation, deviation), absent)
        sums[:2] = plus((sums[0], sums[1]), two_product(deviation, absent))
        sums[2:] = plus((sums[2], sums[3]), square)

    sums = np.zeros((4, n_units))
    with np.errstate(invalid="ignore", over="ignore"):
        work(np.ones(n_units), sums)
    return _summary_of_floats(n_rows, first, sums, low, high, work)


def summary_of_integers(n: int, sums: Array, squares: Array, low: FloatArray, high: FloatArray) -> ColumnSummary:
    """From exact sums (n_units,) int64 over n rows; the variance is a quotient of integers, rounded once."""
    spread = [n * int(q) - int(s) ** 2 for s, q in zip(sums, squares, strict=True)]  # Python's integers: no overflow
    variance = np.array([value / n**2 for value in spread], np.float64)
    return ColumnSummary(sums / n, np.sqrt(variance), low, high, np.ones(len(sums), np.bool_))


def summary_of_two(n: int, counts: Array, value: float) -> ColumnSummary:
    """Summary of columns that hold ``value`` in ``counts`` (n_units,) of n rows, and 0 in all others."""
    low, high = np.where(counts == n, value, 0.0), np.where(counts > 0, value, 0.0)
    if value.is_integer() and abs(value) < 1 << 16:
        return summary_of_integers(n, counts * int(value), counts * int(value) ** 2, low, high)
    number, wide = counts.astype(np.float64), np.full(len(counts), value)
    sums = np.stack([*two_product(number, wide), *times(two_product(wide, wide), number)])

    def work(unit: FloatArray, sums: FloatArray) -> None:
        sums[:2] = two_product(number, wide * unit)
        sums[2:] = times(two_product(wide * unit, wide * unit), number)

    return _summary_of_floats(n, np.zeros(len(counts)), sums, low, high, work)


def _summary_of_floats(
    n: int, first: FloatArray, sums: FloatArray, low: FloatArray, high: FloatArray, work: Any
) -> ColumnSummary:
    """From the sums (4, n_units) of deviations from ``first`` and of their squares, two floats each.

    work   makes the sums anew from values times ``unit`` (n_units,), powers of two
    """
    with np.errstate(invalid="ignore", over="ignore", under="ignore"):
        mean, std = _moments(n, first, sums)
        spread, largest = high - low, np.maximum(np.abs(low), np.abs(high))
        odd = (spread > 0) & (largest < _LARGEST) & ((spread < _SMALLEST) | (largest > 1 / _SMALLEST))
        if odd.any():
            unit = np.ones(len(first))
            unit[odd] = np.ldexp(1.0, np.minimum(-np.frexp(spread[odd])[1], 1000))
            again = np.zeros_like(sums)
            work(unit, again)
            better = _moments(n, first * unit, again)
            mean, std = (np.where(odd, new / unit, old) for new, old in zip(better, (mean, std), strict=True))
        finite = np.isfinite(mean) & np.isfinite(std) & (largest < _LARGEST)
    same = low == high
    mean, std = np.where(same, low, mean), np.where(same, 0.0, std)
    return ColumnSummary(np.where(finite, mean, np.nan), np.where(finite, std, np.nan), low, high, finite)


def _moments(n: int, first: FloatArray, sums: FloatArray) -> Pair:
    """Mean and standard deviation: Chan, Golub and LeVeque (1983), equation 1.7, on pairs."""
    deviation = sums[0], sums[1]
    mean = divided(plus(two_product(first, np.full(len(first), float(n))), deviation), float(n))
    squared = divided(product(deviation, deviation), float(n))
    variance = divided(plus((sums[2], sums[3]), (-squared[0], -squared[1])), float(n))
    return mean[0] + mean[1], np.sqrt(np.maximum(variance[0] + variance[1], 0.0))


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_bytes(
    source: Array, rows: Array, columns: Array, sums: Array, squares: Array, low: Array, high: Array
) -> None:
    for row_id in rows:
        row = source[row_id]
        for u in range(len(columns)):
            value = np.int64(row[columns[u]])
            sums[u] += value
            squares[u] += value * value
            low[u] = min(low[u], value)
            high[u] = max(high[u], value)


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_floats(source: Array, rows: Array, columns: Array, state: Array) -> None:
    """state (panels of columns, fields x lanes): with one base and fixed distances between fields, which the compiler
    needs to know before it vectorises.  Rows are taken a few at a time, so that a panel stays in the first cache."""
    for start in range(0, len(rows), _ROWS):
        some = rows[start : start + _ROWS]
        for p in range(state.shape[0]):
            panel, wanted = state[p], columns[p * _LANES : (p + 1) * _LANES]
            for row_id in some:
                row = source[row_id]
                for i in range(len(wanted)):
                    panel[i] = row[wanted[i]]
                for i in range(_LANES):
                    value, unit = panel[i], panel[_UNIT + i]
                    panel[_LOW + i] = value if value < panel[_LOW + i] else panel[_LOW + i]
                    panel[_HIGH + i] = value if value > panel[_HIGH + i] else panel[_HIGH + i]
                    panel[_SUMS + i], panel[_SUMS + _LANES + i], panel[_SQUARES + i], panel[_SQUARES + _LANES + i] = (
                        _added(
                            value * unit, panel[_FIRST + i] * unit, panel[_SUMS + i], panel[_SUMS + _LANES + i],
                            panel[_SQUARES + i], panel[_SQUARES + _LANES + i],
                        )
                    )  # fmt: skip


@njit(cache=True, nogil=True)  # type: ignore[untyped-decorator]
def _sum_entries(indices: Array, values: Array, first: Array, unit: Array, sums: Array) -> None:
    total, total_rest, square, square_rest = sums[0], sums[1], sums[2], sums[3]
    for entry in range(len(indices)):
        u = indices[entry]
        total[u], total_rest[u], square[u], square_rest[u] = _added(
            values[entry] * unit[u], first[u] * unit[u], total[u], total_rest[u], square[u], square_rest[u]
        )


@register_jitable  # type: ignore[untyped-decorator]
def _added(value, first, total, total_rest, square, square_rest):  # type: ignore[no-untyped-def]  # pragma: no cover
    """Both sums with one value more."""
    deviation = value - first
    back = value - deviation  # Knuth's two-sum: what the difference has lost
    lost = (value - (deviation + back)) + (back - first)
    total, total_rest = add_pair(total, total_rest, deviation, lost)
    square, square_rest = add_square(square, square_rest, deviation, lost)
    return total, total_rest, square, square_rest
