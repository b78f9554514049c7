"""The checksum of a tensor: a sum over its elements, so that any ranks can add up any parts of it.

For element ``i`` (its index in the flattened, C-ordered tensor) with bit pattern ``x_i`` (the element's bytes as an
unsigned little-endian integer, zero-extended to 64 bits), all arithmetic modulo 2^64::

    mix(z):  z ^= z >> 30;  z *= 0xBF58476D1CE4E5B9
             z ^= z >> 27;  z *= 0x94D049BB133111EB
             z ^= z >> 31
    checksum = sum over i of mix(x_i + (i + 1) * 0x9E3779B97F4A7C15)

``mix`` is the output function of SplitMix64 (Steele, Lea and Flood, OOPSLA 2014) and a bijection of the 64-bit
integers: a change of one element always changes the checksum, whichever of its bits differ; a change of several, or
two elements exchanged, goes unseen with a probability of about 2^-64.  An empty tensor has the checksum 0.  The sum
does not depend on the order of the elements, hence not on the grid.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.machine.compilation import njit

MODULUS = 1 << 64
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_FIRST = np.uint64(0xBF58476D1CE4E5B9)
_SECOND = np.uint64(0x94D049BB133111EB)
_S30, _S27, _S31, _ONE = np.uint64(30), np.uint64(27), np.uint64(31), np.uint64(1)


def bits(values: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The same memory as unsigned integers of the same width; ``values`` is C-contiguous."""
    return values.view(f"u{values.itemsize}")


def checksum(values: npt.NDArray[Any], first: int = 0) -> int:
    """Checksum of elements ``first, first + 1, ...`` of a tensor.   values: any shape, C-contiguous"""
    flat = bits(np.ascontiguousarray(values)).reshape(1, -1)
    return checksum_rows(flat, np.zeros(1, np.int64), np.zeros(1, np.int64), 0, first)


def checksum_rows(values: npt.NDArray[Any], select: npt.NDArray[np.int64], rows: npt.NDArray[np.int64],
                  row_length: int, first: int) -> int:  # fmt: skip
    """Checksum of the rows ``values[select]`` of a panel of a matrix.

    values (any, n) C-contiguous; select, rows (n_rows,): row ``select[i]`` of ``values`` is row ``rows[i]`` of the
    matrix, whose rows have ``row_length`` elements; ``first`` is the column of the panel's first element.
    """
    with np.errstate(over="ignore"):  # the scalars of an uncompiled run (NUMBA_DISABLE_JIT) warn when they wrap
        return int(_sum_rows(bits(values), select, rows, np.int64(row_length), np.int64(first)))


@njit(cache=True, nogil=True)
def _sum_rows(values, select, rows, row_length, first):  # type: ignore[no-untyped-def]
    total = np.uint64(0)
    for i in range(len(select)):
        line = values[select[i]]
        start = np.uint64(rows[i] * row_length + first) * _GOLDEN + _GOLDEN
        for j in range(len(line)):
            z = np.uint64(line[j]) + (start + np.uint64(j) * _GOLDEN)
            z = (z ^ (z >> _S30)) * _FIRST
            z = (z ^ (z >> _S27)) * _SECOND
            total += z ^ (z >> _S31)
    return total
