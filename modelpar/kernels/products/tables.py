"""Sums of weights over the units that are on, by subset sums in tables in the first-level cache: on any processor.

Of 30 incoming units, six tables hold the sums of every subset of five for 32 outgoing units; a sample adds a row of
each.  The sums of a sample lie side by side meanwhile, and are transposed in the end.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from modelpar.kernels.llvm.counts import add_transposed_16, transpose_16
from modelpar.kernels.llvm.subset_sums import BITS, CODE_BITS, ROW
from modelpar.kernels.llvm.tables import PART, STEP, TABLE, TABLES, WIDTH, add_looked_up, fixed_16, write_table
from modelpar.kernels.llvm.vectors import LANES, address
from modelpar.kernels.products.aligned import aligned_int32, pad
from modelpar.machine.compilation import njit

UNITS = WIDTH // 4  # of a row of a table
BLOCK = 17 * STEP  # incoming units at a time
PANEL = ROW  # outgoing units at a time


@njit(cache=True, nogil=True)
def fixed_vectors(W, up, first, n_units, low, high, scale, out, at, vector, row):  # type: ignore[no-untyped-def]
    """Weights of the units ``first ..`` for the inputs ``low .. high - 1`` in fixed point, 16 units side by side.

    out, at, vector, row   int32 (n,) on a 64-byte boundary, which gets [16 units][input][unit] from ``at`` on, vectors
                           and rows so far apart, all in multiples of 16
    Inputs up to the end of the last step have weights of 0; units that are not there have any.
    """
    start, stride, n = address(W), W.strides[0], high - low
    end, whole, target = (n + STEP - 1) // STEP * STEP, n_units // LANES * LANES, address(out) + 4 * at
    if up:
        for i in range(n):
            source = start + (low + i) * stride + 4 * first
            for u in range(0, whole, LANES):
                fixed_16(source + 4 * u, target + 4 * (u // LANES * vector + i * row), scale)
    elif n >= LANES:
        for u in range(0, whole, LANES):
            source, there = start + (first + u) * stride + 4 * low, target + 4 * (u // LANES * vector)
            for i in range(0, n, LANES):
                k = min(i, n - LANES)  # the last ones overlap those before them
                transpose_16(source + 4 * k, stride, there + 4 * k * row, 4 * row)
                for j in range(k, k + LANES):
                    fixed_16(there + 4 * j * row, there + 4 * j * row, scale)
    else:
        whole = 0
    for u in range(whole, n_units):
        begin = at + u // LANES * vector + u % LANES
        for i in range(n):
            weight = W[low + i, first + u] if up else W[first + u, low + i]
            out[begin + i * row] = np.int32(np.rint(weight * scale))
    for u in range(0, n_units, LANES):
        for i in range(n, end):
            for k in range(LANES):
                out[at + u // LANES * vector + i * row + k] = 0


@njit(cache=True, nogil=True)
def add_transposed(by_sample, at, width, n_units, batch, sums, first):  # type: ignore[no-untyped-def]
    """sums[first + u, s] += by_sample[at + s * width + u], up to multiples of 16 of both; by_sample (n,) int32

    Compiled code keeps an array as long as its name is used, not as long as its address is: this is the last use.
    """
    source, target = address(by_sample) + 4 * at, address(sums) + first * sums.strides[0]
    for u in range(0, n_units, LANES):
        for s in range(0, batch, LANES):
            here = source + 4 * (s * width + u)
            add_transposed_16(here, 4 * width, target + u * sums.strides[0] + 4 * s, sums.strides[0])


@njit(cache=True, nogil=True)
def write_tables(source, vector, n_vectors, tables):  # type: ignore[no-untyped-def]
    """All tables of a step; source: address of int32 [16 units][input][unit], vectors ``vector`` bytes apart."""
    for g in range(TABLES):
        for k in range(n_vectors):
            here, there = source + k * vector + g * BITS * 4 * LANES, tables + g * TABLE + k * 4 * LANES
            for part in range(0, 4 * LANES, PART):
                write_table(here + part, 4 * LANES, there + part)


@njit(cache=True, nogil=True)
def sum_panel_by_tables(W, integers, up, n_in, first, n_units, scale, codes, offsets, active, batch, weights, sums):  # type: ignore[no-untyped-def]
    """As in registers, from integers of all weights as ``prepare_vectors`` makes them, or without rows."""
    n, halves = pad(batch) * UNITS, (n_units + UNITS - 1) // UNITS
    scratch = aligned_int32(halves * n + TABLES * TABLE // 4)  # sums of each half of the panel, and the tables
    sums_at, tables = address(scratch), address(scratch) + 4 * halves * n
    prepared = len(integers) > 0
    vector = integers.strides[0] if prepared else 4 * BLOCK * LANES
    for low in range(0, n_in, BLOCK):
        high = min(low + BLOCK, n_in)
        block = address(weights)
        if prepared:
            block = address(integers) + first // LANES * vector + 4 * low * LANES
        else:
            at, row = low - low, vector // (4 * BLOCK)  # 0 and LANES, but no constants: numba would compile again
            fixed_vectors(W, up, first, n_units, low, high, scale, weights, at, vector // 4, row)
        for half in range(halves):
            here = block + half * UNITS // LANES * vector
            n_vectors = (min(UNITS, n_units - half * UNITS) + LANES - 1) // LANES
            for chunk in range(low // CODE_BITS, (high + CODE_BITS - 1) // CODE_BITS, 2):
                write_tables(here + 4 * (chunk * CODE_BITS - low) * LANES, vector, n_vectors, tables)
                one = address(codes) + chunk * codes.strides[0]
                other = one + codes.strides[0] if chunk + 1 < len(codes) else one  # of weights that are 0
                add_looked_up(tables, one, other, batch, sums_at + 4 * half * n)
    for half in range(halves):
        add_transposed(scratch, half * n, UNITS, min(UNITS, n_units - half * UNITS), batch, sums, half * UNITS)


def no_vectors_yet(W: npt.NDArray[Any], up: bool) -> npt.NDArray[np.int32]:
    """Return an array for all weights of one direction in fixed point, which ``prepare_vectors`` fills.

    (16 outgoing units, [input, unit]), up to the end of the last step of inputs, on a 64-byte boundary.
    """
    n_in, n_out = W.shape if up else W.shape[::-1]
    rows, width = -(-n_out // LANES), -(-n_in // STEP) * STEP * LANES
    return aligned_int32(rows * width).reshape(rows, width)


@njit(cache=True, nogil=True)
def prepare_vectors(W, up, start, stop, scale, integers):  # type: ignore[no-untyped-def]
    """Fill the ``integers`` of the units ``start .. stop - 1``; start is a multiple of 16."""
    n_in = W.shape[0] if up else W.shape[1]
    width, low = integers.shape[1], start - start  # 0, but not a constant, for which numba would compile again
    row = low + LANES
    at = start // LANES * width
    for first in range(start, stop, PANEL):
        n_units = min(PANEL, stop - first)
        fixed_vectors(W, up, first, n_units, low, n_in, scale, integers.reshape(-1), at, width, row)
        at += PANEL // LANES * width
