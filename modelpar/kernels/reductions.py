"""Sums over activations.  Each docstring is the equivalent NumPy line, equal up to rounding."""

from __future__ import annotations

import numpy as np

from modelpar.machine.compilation import njit

# Reassociation lets the sums use vector lanes; NaN and infinity keep their meaning, unlike under full fastmath.
_REORDER = {"reassoc", "contract", "nsz"}


@njit(cache=True, nogil=True, fastmath=_REORDER)
def row_sums(x, out):  # type: ignore[no-untyped-def]
    """out[:] = x.sum(axis=1)      x (units, batch); out (units,)"""
    for i in range(x.shape[0]):
        row = x[i]
        total = x.dtype.type(0)
        for j in range(row.shape[0]):
            total += row[j]
        out[i] = total


@njit(cache=True, nogil=True, fastmath=_REORDER)
def squared_error(a, b):  # type: ignore[no-untyped-def]
    """((a - b) ** 2).sum(dtype=float64)      a, b (units, batch)"""
    squares = 0.0
    for i in range(a.shape[0]):
        row_a, row_b = a[i], b[i]
        total = a.dtype.type(0)
        for j in range(row_a.shape[0]):
            difference = row_a[j] - row_b[j]
            total += difference * difference
        squares += np.float64(total)  # without compilation it would be a float32
    return squares
