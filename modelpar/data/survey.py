"""What one pass over some columns tells: sums, squares, the smallest and the largest value.

Sums run over the rows in order, column by column, so they do not depend on how columns are spread over ranks; those
of integers are exact.  Floats are summed about the column's first value, which keeps a small spread beside a large
mean.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.machine.compilation import njit

Array = npt.NDArray[Any]
FloatArray = npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Survey:
    """Raw values of some rows, column by column; every array is (n_units,) float64."""

    mean: FloatArray
    std: FloatArray
    low: FloatArray  # smallest value; NaN values are passed over
    high: FloatArray  # largest value
    finite: npt.NDArray[np.bool_]  # no value is NaN or infinite


def survey_dense(source: Array, rows: Array, columns: Array) -> Survey:
    """Survey of ``source[rows][:, columns]``.   source (n, width) uint8 or float; rows (at least one), columns int64"""
    shape = len(columns)
    low, high = np.full(shape, np.inf), np.full(shape, -np.inf)
    if source.dtype == np.uint8:
        sums, squares = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
        _sum_bytes(source, rows, columns, sums, squares, low, high)
        return survey_of_integers(len(rows), sums, squares, low, high)
    first = source[rows[0], columns].astype(np.float64)
    total, square = np.zeros(shape), np.zeros(shape)
    _sum_floats(source, rows, columns, first, total, square, low, high)
    return _survey_of_floats(len(rows), first, total, square, low, high)


def survey_sparse(indices: Array, data: Array, n_rows: int, n_units: int) -> Survey:
    """Survey of a CSR matrix (n_rows, n_units) from its entries: column indices and values."""
    low, high = np.zeros(n_units), np.zeros(n_units)
    dense = np.bincount(indices, minlength=n_units) == n_rows  # columns without an implied zero
    low[dense], high[dense] = np.inf, -np.inf
    values = data.astype(np.float64)
    np.fmin.at(low, indices, values)
    np.fmax.at(high, indices, values)
    total = np.bincount(indices, values, n_units)
    square = np.bincount(indices, values * values, n_units)
    if data.dtype == np.uint8:  # exact: sums of bytes stay far below 2^53
        return survey_of_integers(n_rows, total.astype(np.int64), square.astype(np.int64), low, high)
    return _survey_of_floats(n_rows, np.zeros(n_units), total, square, low, high)


def survey_of_integers(n: int, sums: Array, squares: Array, low: FloatArray, high: FloatArray) -> Survey:
    """From exact sums (n_units,) int64 over n rows; the variance is a quotient of integers, rounded once."""
    spread = [n * int(q) - int(s) ** 2 for s, q in zip(sums, squares, strict=True)]  # Python's integers: no overflow
    variance = np.array([value / n**2 for value in spread], np.float64)
    return Survey(sums / n, np.sqrt(variance), low, high, np.ones(len(sums), np.bool_))


def _survey_of_floats(n: int, first: Array, total: Array, square: Array, low: FloatArray, high: FloatArray) -> Survey:
    with np.errstate(invalid="ignore", over="ignore"):
        variance = np.maximum(square - total * (total / n), 0.0) / n
        mean = first + total / n
        return Survey(mean, np.sqrt(variance), low, high, np.isfinite(mean) & np.isfinite(variance))


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
def _sum_floats(
    source: Array, rows: Array, columns: Array, first: Array, total: Array, square: Array, low: Array, high: Array
) -> None:
    for row_id in rows:
        row = source[row_id]
        for u in range(len(columns)):
            value = np.float64(row[columns[u]])
            total[u] += value - first[u]
            square[u] += (value - first[u]) ** 2
            if value < low[u]:
                low[u] = value
            if value > high[u]:
                high[u] = value
